"""Draw synthetic chest X-rays in the Kaggle layout: the demo data and the test data of this project.

No pixel comes from a patient. Patient coordinates: x to the image's right, y down, the origin mid-chest, one unit
about half the shorter side. Image-left is the patient's right, and dense is bright.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, label, map_coordinates
from scipy.special import expit

from hub_models.files import check_output, new_folder
from hub_models.imaging.gray import synthetic_mark

Array = np.ndarray
Site = Literal["Montgomery", "Shenzhen"]
VERSION = 4  # of the drawing: raise it when the same arguments give other files
# id, TB fraction, first TB id
PHANTOM_SITES = {"Montgomery": ("MCUCXR", 58 / 138, 101), "Shenzhen": ("CHNCXR", 336 / 662, 327)}
SIGN_OF_SIDE = {"right": -1, "left": 1}  # the patient's side to the sign of x
DEPTH_OF_ZONE = {"upper": (0.14, 0.40), "middle": (0.40, 0.62), "lower": (0.62, 0.85)}  # from apex 0 to diaphragm 1
FINDINGS = {  # a lesion, by its name in `chest_xray_masks.parse_findings`, in Montgomery's words, in Shenzhen's
    "infiltrate": ("infiltrate {side} {zone} lung", "infiltrative PTB in the {side} {zone} field"),
    "cavity": ("cavitary lesion {side} {zone} lung", "{side} {zone} PTB with cavity"),
    "miliary": ("miliary nodules in both lungs", "bilateral hematogenous disseminated PTB"),
    "effusion": ("{side} pleural effusion", "{side} pleurisy with pleural effusion"),
}
MONTGOMERY = "Patient's Sex: {S} \nPatient's Age: {age:03d}Y\n{findings}\n"
SHENZHEN = "{sex} {age}yrs|femal {age}yrs|{sex} 16month|{sex}{age}yrs|{sex} 64days|{sex} 1yr\r\n|{sex} {age}"
FORMS = {  # of readings by site and label: the common form, then the odd ones
    ("Montgomery", 0): [MONTGOMERY, MONTGOMERY.replace("{S}", "O"), *[MONTGOMERY] * 9],
    ("Montgomery", 1): [MONTGOMERY, MONTGOMERY.replace("\n", "\r\n") + "\r\n"],
    ("Shenzhen", 0): [head + "\r\n{findings}" for head in SHENZHEN.split("|")] + [" {sex}  {age} yrs\n{findings}\r\n"],
    ("Shenzhen", 1): ["{sex} {age}yrs  \t\n{findings} \t", "{sex} {age}yrs\r\nSTB\r\n{lines}"]
    + ["{Sex}, {age}yrs  \t\n{findings}   \t", "{Sex} , {age}yrs  \t\n{items} \t"],
}
IMPLIED_SEX = {"femal ": "F", "Sex: O": "O"}  # what an odd form says whatever was drawn
IMPLIED_YEARS = {"16month": 16 / 12, "64days": 64 / 365.25, "1yr\r": 1.0}
EARLIER_VISITS = {1: (0,), 4: (3,), 5: (4, 3)}  # the n-th Montgomery TB X-ray has the patient of these


@dataclass(frozen=True, eq=False)
class Phantom:
    """One synthetic X-ray: image (H, W) uint8, mask (H, W) bool of both lungs, and what its reading says.

    label is 0 (normal) or 1 (tuberculosis), sex M, F or O, age_years a fraction below one; sides are the patient's.
    """

    image: Array
    mask: Array
    id: str
    site: Site
    label: int
    sex: str
    age_years: float
    findings: tuple[str, ...]
    form: str

    @property
    def reading(self) -> str:
        """Return the text of the reading in its form."""
        words, sex = self.findings or ("normal",), {"F": "female", "M": "male", "O": "other"}[self.sex]
        items = "; ".join(f"{n}.{word}" for n, word in enumerate(words, 1))
        said = {"S": self.sex, "sex": sex, "Sex": sex.title(), "age": int(self.age_years), "items": items}
        return self.form.format_map(said | {"findings": ", ".join(words), "lines": "\r\n".join(words)})


class _Chest:
    """One patient's anatomy in patient units, and the patient coordinates x, y (H, W) of every pixel."""

    def __init__(self, rng: np.random.Generator, pose_rng: np.random.Generator, size: tuple[int, int]) -> None:
        # heart, knob (of the aorta): their reach into the left lung; drop: of the left diaphragm below the right.
        self.half_width, self.apex = rng.uniform((0.68, -0.78), (0.76, -0.70)).tolist()
        self.dome, self.drop = rng.uniform((0.32, 0.04), (0.42, 0.08)).tolist()
        self.mediastinum, self.heart, self.knob = rng.uniform((0.10, 0.22, 0.01), (0.13, 0.32, 0.07)).tolist()
        self.rib_gap, self.rib_phase, self.rib_slope = rng.uniform((0.125, 0, 0.8), (0.150, 1, 1.25)).tolist()
        self.unit_px = float(0.5 * min(size) ** 0.7 * max(size) ** 0.3 * pose_rng.uniform(0.93, 1.05))
        turn, shift = np.deg2rad(pose_rng.uniform(-4, 4)), pose_rng.uniform(-0.04, 0.04, (2, 1, 1))
        down, right = (np.indices(size) + 0.5 - np.reshape(size, (2, 1, 1)) / 2) / self.unit_px + shift  # (H, W) each
        x, y = right * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - right * np.sin(turn)
        bends = [0.012 * np.sin(k * v + rng.uniform(0, 2 * np.pi)) for v, k in ((y, 3), (y, 6), (x, 3), (x, 6))]
        self.x, self.y = x + bends[0] + bends[1], y + bends[2] + bends[3]

    def edges(self, side: int, y: Array) -> tuple[Array, Array]:
        """Return the distances from the midline where the lung of that side begins and ends at height y."""
        rise = np.clip((0.32 - y) / (0.32 - self.apex), 0, 1)
        outer = self.half_width * (1 - rise**2.7) ** (1 / 2.2) - 0.05 * np.clip(y - 0.32, 0, None)
        heart = (self.heart if side > 0 else 0.09) * np.exp(-(((y - 0.3) / np.where(y < 0.3, 0.24, 0.4)) ** 2))
        knob = self.knob * (side > 0) * np.exp(-(((y + 0.33) / 0.08) ** 2))
        return self.mediastinum + heart + knob + 0.18 * np.exp((self.apex - y) / 0.06), outer

    def diaphragm(self, side: int) -> Array:
        """Return the height (H, W) of the diaphragm of that side under or over every pixel."""
        return self.dome + self.drop * (side > 0) + np.where((off := side * self.x - 0.34) > 0, 1.35, 0.7) * off**2

    def lung(self, side: int) -> Array:
        """Return the lung field (H, W) bool of one side: no heart, above the diaphragm, one connected piece."""
        inner, outer = self.edges(side, self.y)
        pieces, _ = label((side * self.x > inner) & (side * self.x < outer) & (self.y < self.diaphragm(side)))
        return pieces == 1 + np.argmax(np.bincount(pieces.ravel(), minlength=2)[1:])

    def points(self, rng: np.random.Generator, side: int, zone: tuple[float, float], count: int) -> Array:
        """Return random x and y (2, count) in a zone of one lung."""
        y = self.apex + rng.uniform(*zone, count) * (self.dome - self.apex)
        inner, outer = self.edges(side, y)
        return np.stack([side * (inner + rng.uniform(0.2, 0.8, count) * (outer - inner)), y])

    def project(self, drawn: Array) -> Array:
        """Return a picture (N, N), drawn over x, y in -1..1, as pixels (H, W) of the X-ray."""
        return map_coordinates(drawn, (np.stack([self.y, self.x]) + 1) * self.unit_px, order=1)


def _density(chest: _Chest) -> Array:
    """Return the density (H, W) of the body without the air in its lungs: soft tissue, diaphragm, bones."""
    x, y, a, t = chest.x, chest.y, np.abs(chest.x), np.abs(chest.x) / chest.half_width
    trunk_edge = chest.half_width + 0.12 + 0.3 * expit((-0.34 - y) / 0.07)  # wide above the armpits
    trunk = np.minimum(trunk_edge - a, y + 1.03 - 0.4 * expit((a - 0.6) / 0.14))
    along = np.clip(0.3 * (a - 0.95) + 0.9 * (y + 0.45), 0, 0.9)  # from the shoulder joint towards the elbow
    arm = 0.2 - np.hypot(a - 0.95 - 0.3 * along, y + 0.45 - 0.9 * along)
    depth = np.clip(np.max([trunk / 0.2, arm / 0.2, (0.25 - a) / 0.16], axis=0), 0, 1)
    density = 0.46 * np.sqrt(1 - (1 - depth) ** 2) * (1 + 0.14 * y) + 0.1 * expit((arm - 0.13) / 0.008)
    for side in SIGN_OF_SIDE.values():
        shadow = expit((chest.edges(side, y)[0] - side * x) / 0.012) * expit(side * x / 0.05)
        density += shadow * (0.16 * expit((y + 0.72) / 0.06) + 0.07 * expit((y - 0.02) / 0.1))
        density += 0.23 * depth * expit((y - chest.diaphragm(side)) / 0.012) * expit(side * x / 0.01)
    density -= 0.13 * expit((1 - ((x - 0.4) / 0.11) ** 2 - ((y - chest.dome - 0.17) / 0.045) ** 2) / 0.15)  # stomach
    density -= 0.11 * np.exp(-((x / 0.035) ** 4)) * expit((-0.3 - y) / 0.04)  # windpipe
    density += np.exp(-((a / 0.085) ** 6)) * (0.13 - 0.06 * np.exp(-(((y / 0.115 % 1 - 0.5) / 0.09) ** 2)))  # spine
    _, outer = chest.edges(1, np.clip(y, chest.apex + 0.02, 0.7))
    density += 0.09 * np.exp(-(((a - outer - 0.02) / 0.016) ** 2)) * expit((y + 0.6) / 0.05) * expit((0.75 - y) / 0.05)
    cage = expit((outer + 0.03 - a) / 0.012) * expit((y - chest.apex) / 0.03) * expit((0.85 - y) / 0.1)
    back = y + 0.10 * np.sin(np.pi * np.clip(1.15 * t, 0, 1)) - chest.rib_slope * 0.30 * t**2.6 * (1 + 0.5 * y)
    front = y - 0.12 + chest.rib_slope * 0.42 * (t - 0.3) - 0.25 * t**4
    back, front = (np.abs((v / chest.rib_gap + chest.rib_phase) % 1 - 0.5) / 0.27 for v in (back, front))
    clavicle = np.abs(y + 0.53 + 0.13 * t - 0.04 * np.sin(5 * t)) / 0.034
    for off, strength in (  # off the bone's axis, 1 at its edge
        (clavicle, 0.11 * expit((a - 0.07) / 0.01) * expit((0.84 - a) / 0.01)),
        (back, 0.062 * cage * expit((a - 0.06) / 0.01)),
        (front, 0.032 * cage * expit((a - 0.3) / 0.04)),
    ):
        density += strength * (np.exp(-(off**6)) + 0.6 * np.exp(-(((off - 0.9) / 0.16) ** 2)))
    return density


def _vessels(rng: np.random.Generator, chest: _Chest) -> Array:
    """Return the density (H, W) of the vessels that leave both hila."""
    draw = ImageDraw.Draw(canvas := Image.new("F", (round(2 * chest.unit_px),) * 2))
    for side, angle in product(SIGN_OF_SIDE.values(), np.linspace(-1.4, 1.5, 16)):
        angles = angle + rng.normal(0, 0.17, 15).cumsum()
        steps = 0.045 * np.stack([side * np.cos(angles), np.sin(angles)], axis=1)
        path = steps.cumsum(axis=0) + (side * (chest.mediastinum + 0.04), rng.uniform(-0.12, 0.1))
        for n, line in enumerate((1 + np.stack([path[:-1], path[1:]], axis=1)) * chest.unit_px):
            width = 0.025 * 0.87**n
            draw.line(line.ravel().tolist(), fill=0.03 + 4.2 * width, width=max(1, round(width * chest.unit_px)))
    return chest.project(gaussian_filter(np.asarray(canvas), 0.006 * chest.unit_px))


def _lesions(rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Return kind, side and zone of one patient's one to three lesions, mostly in the upper lungs."""
    side, other = rng.permutation(list(SIGN_OF_SIDE)).tolist()
    kind = str(rng.choice(list(FINDINGS), p=(0.45, 0.3, 0.13, 0.12)))
    lesions = [(kind, side, str(rng.choice(list(DEPTH_OF_ZONE), p=(0.7, 0.2, 0.1))))]
    more, fluid = rng.uniform() < 0.4 and kind != "miliary", rng.uniform() < 0.2 and kind != "effusion"
    return lesions + [("infiltrate", other, "upper")] * more + [("effusion", side, "lower")] * fluid


def _lesion(rng: np.random.Generator, kind: str, side: int, zone: tuple[float, float], chest: _Chest) -> Array:
    """Return the density (H, W) that one lesion adds where there is lung."""
    if kind == "miliary":
        spots = np.concatenate([chest.points(rng, s, (0.08, 1.1), 170) for s in SIGN_OF_SIDE.values()], axis=1)
        drawn, sigma_px = np.zeros((round(2 * chest.unit_px),) * 2), max(0.7, 0.011 * chest.unit_px)
        drawn[tuple(((1 + spots[::-1]) * chest.unit_px).astype(int))] = 0.1 * 2 * np.pi * sigma_px**2
        return chest.project(gaussian_filter(drawn, sigma_px))
    if kind == "effusion":
        inner, outer = chest.edges(side, chest.y)
        meniscus = 0.16 * np.clip((outer - side * chest.x) / (outer - inner + 0.01), 0, 1)
        return 0.36 * expit((chest.y - chest.dome - meniscus + rng.uniform(0, 0.14)) / 0.02) * (side * chest.x > 0)
    centre, density = chest.points(rng, side, zone, 1)[:, 0], np.zeros_like(chest.x)
    for x, y in centre + rng.normal(0, 0.075, (14, 2)):
        blob = np.exp(-((chest.x - x) ** 2 + (chest.y - y) ** 2) / rng.uniform(0.025, 0.07) ** 2)
        density += rng.uniform(0.04, 0.11) * blob
    if kind == "cavity":
        beyond = np.hypot(chest.x - centre[0], chest.y - centre[1]) - rng.uniform(0.055, 0.1)
        density = density * expit(beyond / 0.01) + 0.15 * np.exp(-((beyond / 0.018) ** 2))
    return 0.45 * np.tanh(density / 0.3)


def _expose(rng: np.random.Generator, density: Array, lowest: int, montgomery: bool, unit_px: float) -> Array:
    """Return the X-ray (H, W) uint8 of a density: scatter, quantum noise, contrast curve, border, markers."""
    height, width = density.shape
    density = 0.85 * density + 0.15 * gaussian_filter(density, 0.12 * unit_px)
    grain = gaussian_filter(rng.normal(size=density.shape), 0.6)
    density += (0.010 if montgomery else 0.014) * grain * np.exp(1.2 * density)  # fewer quanta behind more tissue
    low, high, slope, middle, gamma = (-12, 258, 6.5, 0.40, 1.1) if montgomery else (-40, 240, 5.5, 0.22, 0.8)
    xray = low + (high - low) * expit(slope * rng.uniform(0.9, 1.1) * (density - rng.normal(middle, 0.025))) ** gamma
    xray[round(lowest + (height - lowest) * rng.uniform(0.4, 1.6 if montgomery else 8.0)) :] = 0
    image = Image.fromarray(np.clip(xray, 0, 255).astype(np.uint8))
    draw, at = ImageDraw.Draw(image), rng.uniform(0.03, 0.08, 3)
    if montgomery:
        font, corner = ImageFont.load_default(max(6, 0.036 * height)), (width * (0.76 + at[0]), height * at[1])
        draw.rectangle(draw.multiline_textbbox(corner, "PA\nERECT", font=font), fill=255)
        draw.multiline_text(corner, "PA\nERECT", fill=0, font=font)
    draw.text((width * at[2], height * at[1]), "R", fill=235, font=ImageFont.load_default(max(6, 0.05 * height)))
    return np.asarray(image)


def render_phantom(seed: int, site: Site, tuberculosis: bool, size: tuple[int, int], visit: int = 0) -> Phantom:
    """Return one synthetic X-ray of size (height, width) px, the same for the same arguments.

    Another visit is another X-ray of the same patient; without tuberculosis it is the same X-ray less the lesions.
    Raises ValueError for an unknown site, a negative seed or visit, a side under 32 px.
    """
    if site not in PHANTOM_SITES or min(seed, visit) < 0 or min(size) < 32:
        sites, got = " or ".join(PHANTOM_SITES), (site, seed, visit, size)
        raise ValueError(f"pass site {sites}, seed and visit of 0 or more, sides of 32 or more, got {got}")
    patient_rng, lesion_rng = (np.random.default_rng((seed, key)) for key in (0, 1))
    pose_rng, xray_rng = (np.random.default_rng((seed, key, visit)) for key in (2, 3))
    sex, age_years = str(patient_rng.choice(["F", "M"])), float(patient_rng.integers(16, 80))
    chest = _Chest(patient_rng, pose_rng, size)
    mask = chest.lung(-1) | chest.lung(1)
    air = gaussian_filter(mask.astype(float), 0.008 * chest.unit_px)
    depth = air * (0.6 + 0.4 * gaussian_filter(air, 0.08 * chest.unit_px))
    density = _density(chest) - 0.33 * depth + air * _vessels(patient_rng, chest)
    lesions = _lesions(lesion_rng) if tuberculosis else []
    for kind, side, zone in lesions:
        density += air * _lesion(lesion_rng, kind, SIGN_OF_SIDE[side], DEPTH_OF_ZONE[zone], chest)
    montgomery, lowest = site == "Montgomery", int(np.flatnonzero(mask.any(axis=1))[-1])
    image = _expose(xray_rng, density, lowest, montgomery, chest.unit_px)
    findings = tuple(FINDINGS[kind][not montgomery].format(side=side, zone=zone) for kind, side, zone in lesions)
    id, tb = f"{PHANTOM_SITES[site][0]}_{seed % 10_000:04d}_{tuberculosis:d}", int(tuberculosis)
    return Phantom(image, mask, id, site, tb, sex, age_years, findings, FORMS[site, tb][0])


def _write_phantom(folder: Path, site: Site, count: int, index: int, image_size: int, seed: int) -> None:
    """Write the files of the index-th of a site's count phantoms, normals first."""
    (prefix, fraction, first), montgomery = PHANTOM_SITES[site], site == "Montgomery"
    tuberculosis = index >= (normals := count - round(count * fraction))
    nth, start = (index - normals, max(first, normals + 1)) if tuberculosis else (index, 1)
    earlier = EARLIER_VISITS.get(nth, ()) if tuberculosis and montgomery else ()
    site_rng, rng = np.random.default_rng((seed, first)), np.random.default_rng((seed, first, index))
    rank, patient_seeds = site_rng.permutation(count)[index], site_rng.integers(2**32, size=count).tolist()
    long, ratio = (1.0, 4020 / 4892) if montgomery else rng.uniform((0.8, 0.8), 1)
    high, wide = round(image_size * long), round(image_size * long * ratio)
    size = (high, wide) if rng.uniform() < 0.7 else (wide, high)
    patient_seed = patient_seeds[normals + earlier[-1] if earlier else index]
    phantom = render_phantom(patient_seed, site, tuberculosis, size, visit=len(earlier))
    common, *odd = FORMS[site, phantom.label]
    form = odd[nth // 3 % len(odd)] if nth % 3 == 1 else common
    if earlier:
        same = ", ".join(f"{prefix}_{start + n:04d}_1" for n in earlier)
        form = form.replace("{findings}", "{findings} (same pt as " + same + ")")
    sex = next((sex for text, sex in IMPLIED_SEX.items() if text in form), phantom.sex)
    years = next((years for text, years in IMPLIED_YEARS.items() if text in form), phantom.age_years)
    phantom = replace(phantom, id=f"{prefix}_{start + nth:04d}_{phantom.label}", sex=sex, age_years=years, form=form)
    (folder / "ClinicalReadings" / f"{phantom.id}.txt").write_bytes(phantom.reading.encode())
    colored = not montgomery and rank >= count - max(count >= 10, round(count * 27 / 662))
    picture = Image.fromarray(phantom.image).convert("RGB" if colored else "L")
    if not montgomery and not colored:
        grays = rng.permutation(256).astype(np.uint8)  # of the palette's indices
        picture = Image.fromarray(np.argsort(grays).astype(np.uint8)[phantom.image])
        picture.putpalette(np.repeat(grays, 3).tobytes())
    picture.save(folder / "CXR_png" / f"{phantom.id}.png", pnginfo=synthetic_mark())
    if not montgomery and rank < round(count * 96 / 662):
        picture.save(folder / "test" / f"{phantom.id}.png", compress_level=1, pnginfo=synthetic_mark())
    else:
        mask = Image.fromarray(phantom.mask.astype(np.uint8) * 255)
        mask.save(folder / "masks" / f"{phantom.id}{'' if montgomery else '_mask'}.png")


def write_phantoms(
    root: Path, montgomery: int = 100, shenzhen: int = 200, image_size: int = 256, seed: int = 0
) -> Path:
    """Write a seeded set in the Kaggle layout, whole or not at all, and return its data_dir, `root`.

    image_size is the longest side in px. The same arguments give the same files; a set that is there already is kept.
    Raises ValueError for counts, a size or a seed that no set can have, FileExistsError where root holds other things.
    """
    root, counts = Path(root), {"Montgomery": montgomery, "Shenzhen": shenzhen}
    if min(counts.values()) < 0 or not 1 <= max(counts.values()) <= 9000:
        raise ValueError(f"pass 0 to 9000 images a site and one or more in all, got {counts}")
    if image_size < 64 or seed < 0:
        raise ValueError(f"pass image_size of 64 px or more and seed of 0 or more, got {image_size} and {seed}")
    facts = json.dumps({"version": VERSION, **counts, "image_size": image_size, "seed": seed}, indent=1)
    if (record := root / "phantoms.json").is_file() and record.read_text() == facts:
        return root
    check_output(root, "set of these phantoms")
    with new_folder(root) as made, ThreadPoolExecutor() as pool:
        folder = made / "Lung Segmentation"
        for name in ("CXR_png", "masks", "test", "ClinicalReadings"):
            (folder / name).mkdir(parents=True)
        jobs = [(folder, site, n, index, image_size, seed) for site, n in counts.items() for index in range(n)]
        list(pool.map(lambda job: _write_phantom(*job), jobs))
        (made / record.name).write_text(facts)
    return root
