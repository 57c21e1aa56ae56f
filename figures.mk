# Every number of docs/results.md: `make figures DATA=<the set> NIH=<folder of the NIH X-rays>`. Two runs at a time, each
# on one core. The same command resumes what was stopped; `make figures QUICK=1` takes minutes, on phantoms.
BIN ?= .venv/bin
F ?= demo/figures
NIH ?=
PRECISION ?= no
CODE := $(BIN)/cxm
PROTOCOLS := default mc_to_shenzhen shenzhen_to_mc
FOLDS := fold-0 fold-1 fold-2 fold-3 fold-4
# Memory that a step frees is kept for the next one, in large pages: a training on the CPU takes .6 of the time
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=17179869184:$\
	glibc.malloc.mmap_max=0:glibc.malloc.top_pad=268435456
export OMP_NUM_THREADS := 1
export ACCELERATE_MIXED_PRECISION := $(PRECISION)

ifdef QUICK
F := demo/figures-quick
DATA := $(F)/xrays
endif
PAGE := $(if $(QUICK),$(F)/results.md,docs/results.md)
# $(call or_quick,OPTIONS): those of a run, or in a quick trial the least
or_quick = $(if $(QUICK),--epochs 2 --image_size 32,$(1))
PRETRAIN := $(call or_quick,--epochs 200)
VIT := $(call or_quick,--epochs 24 --image_size 112)
RESNET := $(call or_quick,--epochs 50 --image_size 96)
FIRST := $(call or_quick,--epochs 60 --image_size 128)
THEN := $(call or_quick,--epochs 25 --image_size 256)
LAST := $(call or_quick,--epochs 12 --image_size 384)

TRAIN = $(CODE) train --data $(DATA) --output $(@D)
AS_TB = $(TRAIN) --task tb_classification
PRETRAINED := --batch_size 16 --learning_rate 5e-4 --mixup 0.2 --layer_decay 0.75 --ema 0.99
LUNGS := --batch_size 4 --augment strong --ema 0.995
UNLABELLED := $(if $(NIH),$(F)/nih)

TESTED := $(PROTOCOLS) folds $(if $(NIH),nih)
READ := $(filter-out default,$(PROTOCOLS)) $(if $(NIH),nih)
all: $(PROTOCOLS:%=$(F)/lungs/%/results.json) $(TESTED:%=$(F)/tb-resnet/%/results.json) \
		$(TESTED:%=$(F)/tb-vit/%/results.json) $(F)/tb-vit-unlearned/folds/results.json \
		$(READ:%=$(F)/read/%/predictions.parquet)
	PYTHONPATH=tests $(BIN)/python -m figures.tables --figures $(F) --page $(PAGE)

.PHONY: all
.SECONDARY:
.DELETE_ON_ERROR:

$(F)/xrays/README.md:
	$(BIN)/cxm phantoms --output $(@D) --montgomery 40 --shenzhen 60 --image_size 80
$(F)/nih/metadata.csv:
	PYTHONPATH=tests $(BIN)/python -m figures.nih_halves $(NIH) $(@D)
XRAYS := $(if $(QUICK),$(F)/xrays/README.md) $(if $(NIH),$(F)/nih/metadata.csv)

$(F)/encoder/%/results.json: $(XRAYS)
	$(CODE) pretrain --data $(DATA) $(UNLABELLED) --output $(@D) $(PRETRAIN) \
		$(if $(filter fold-%,$*),--protocol folds --fold $(*:fold-%=%),--protocol $*)

$(F)/tb-vit/%/results.json: $(F)/encoder/%/results.json
	$(AS_TB) --protocol $* --model $(F)/encoder/$* $(VIT) $(PRETRAINED)
$(F)/tb-vit/folds/results.json: $(FOLDS:%=$(F)/encoder/%/results.json)
	$(AS_TB) --protocol folds --model $(F)/encoder $(VIT) $(PRETRAINED)
$(F)/tb-vit-unlearned/folds/results.json: $(XRAYS)
	$(AS_TB) --protocol folds --model vit-light --from_scratch $(VIT) $(PRETRAINED)
$(F)/tb-resnet/%/results.json: $(XRAYS)
	$(AS_TB) --protocol $* --model resnet-light --from_scratch $(RESNET) --batch_size 16 --learning_rate 2e-3 \
		--weight_decay 0.05 --label_smoothing 0.1 --ema 0.99 --keep last
$(F)/tb-vit/nih/results.json $(F)/tb-resnet/nih/results.json: $(F)/%/nih/results.json: $(F)/%/default/results.json
	$(CODE) evaluate --model $(<D) --data $(F)/nih --output $(@D)

$(F)/lungs-first/%/results.json: $(XRAYS)
	$(TRAIN) --protocol $* --model segformer-light --from_scratch $(FIRST) $(LUNGS) --learning_rate 1.5e-3
$(F)/lungs-then/%/results.json: $(F)/lungs-first/%/results.json
	$(TRAIN) --protocol $* --model $(<D) $(THEN) $(LUNGS) --learning_rate 6e-4
$(F)/lungs/%/results.json: $(F)/lungs-then/%/results.json
	$(TRAIN) --protocol $* --model $(<D) $(LAST) $(LUNGS) --learning_rate 4e-4

$(F)/read/nih/predictions.parquet: $(F)/lungs/default/results.json
	$(CODE) predict --data $(F)/nih --segmenter $(<D) --output $(@D)
$(F)/read/%/predictions.parquet: $(F)/lungs/%/results.json
	$(CODE) predict --data $(DATA) --segmenter $(<D) --output $(@D)
