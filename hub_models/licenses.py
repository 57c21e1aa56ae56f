"""Licences that a card may name, by the Hub's own identifiers."""

PAGE = "https://huggingface.co/docs/hub/repositories-licenses"
COMMON = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail")
# Source: PAGE; without `other` and `unknown`, which say nothing
_KNOWN = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc
    lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa
    odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 pddl postgresql unlicense wtfpl zlib
"""
LICENSES = frozenset(_KNOWN.split())


def known_license(name: str | None) -> str:
    """The Hub's identifier of a licence; SPDX's own, which may have capitals, is taken too.

    Raises:
        ValueError: none is named, or the Hub has no such one.
    """
    if name and name.lower() in LICENSES:
        return name.lower()
    said = f"the Hub knows no licence {name!r}" if name else "no licence is chosen"
    raise ValueError(f"{said}: pass --license with one of {', '.join(COMMON)}, or another of {PAGE}")
