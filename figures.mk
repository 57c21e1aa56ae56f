# Every number of docs/results.md: `make figures DATA=<the set> NIH=<folder of the NIH X-rays>`. Two runs at a time, each
# on one core. The same command resumes what was stopped; `make figures QUICK=1` takes minutes, on phantoms and
# without the third protocol.
BIN ?= .venv/bin
F ?= demo/figures
PRECISION ?= no
CODE := $(BIN)/cxm
PROTOCOLS := default mc_to_shenzhen $(if $(QUICK),,shenzhen_to_mc)
# Memory that a step frees is kept for the next one, in large pages: a training on the CPU takes .6 of the time
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=17179869184:$\
	glibc.malloc.mmap_max=0:glibc.malloc.top_pad=268435456
export OMP_NUM_THREADS := 1
export ACCELERATE_MIXED_PRECISION := $(PRECISION)

ifdef QUICK
F := demo/figures-quick
DATA := $(F)/xrays
NIH := $(F)/others
endif
KEEP := --keep $(if $(QUICK),$(F)/kept,tests/figures/runs)
PAGE := $(if $(QUICK),$(F)/results.md,docs/results.md)
# $(call or_quick,OPTIONS): those of a run, or in a quick trial the least
or_quick = $(if $(QUICK),--epochs 2 --image_size 32,$(1))
PRETRAIN := $(call or_quick,--epochs 200)
# As many steps on Montgomery's 62 X-rays as on the 318 and more of others: after as many epochs the training loss of a
# ViT was still .68. $(call epochs,OF_OTHERS,OF_MONTGOMERY)
epochs = --epochs $(if $(filter mc_to_shenzhen,$*),$(2),$(1))
VIT = $(call or_quick,$(call epochs,24,144) --image_size 112)
RESNET = $(call or_quick,$(call epochs,50,300) --image_size 96) --batch_size 16 --learning_rate 2e-3 \
	--weight_decay 0.05 --label_smoothing 0.1 --ema 0.99 --keep last
FIRST := $(call or_quick,--epochs 60 --image_size 128)
THEN := $(call or_quick,--epochs 25 --image_size 256)
LAST := $(call or_quick,--epochs 12 --image_size 384)

TRAIN = $(CODE) train --data $(DATA) --output $(@D)
AS_TB = $(TRAIN) --task tb_classification
# The last weights: six validation X-rays of one site once kept those of the first epoch, which had learned nothing
PRETRAINED := --batch_size 16 --learning_rate 5e-4 --mixup 0.2 --layer_decay 0.75 --ema 0.99 --keep last
LUNGS := --batch_size 4 --augment strong --ema 0.995

TESTED := $(PROTOCOLS) folds
READ := $(filter-out default,$(PROTOCOLS)) nih
all: $(PROTOCOLS:%=$(F)/lungs/%/results.json) $(TESTED:%=$(F)/tb-resnet/%/results.json) \
		$(F)/tb-resnet/nih/results.json $(PROTOCOLS:%=$(F)/tb-lungs/%/results.json) \
		$(TESTED:%=$(F)/tb-vit/%/results.json) \
		$(F)/tb-vit-unlearned/default/results.json $(READ:%=$(F)/read/%/predictions.parquet)
	PYTHONPATH=tests $(BIN)/python -m figures.tables --figures $(F) --page $(PAGE) $(KEEP)

.PHONY: all
.SECONDARY:
.DELETE_ON_ERROR:

$(F)/xrays/README.md:
	$(BIN)/cxm phantoms --output $(@D) --montgomery 40 --shenzhen 60 --image_size 80
$(F)/drawn/README.md:
	$(BIN)/cxm phantoms --output $(@D) --montgomery 20 --shenzhen 40 --image_size 80 --seed 1
$(F)/others/no_finding: $(F)/drawn/README.md
	rm -rf $@.part && mkdir -p $@.part && cd $@.part && for path in ../../drawn/*/CXR_png/*.png; do \
		number=$$((number + 1)); ln -s "$$path" $$((10000000 + number))_000.png || exit; done
	mv $@.part $@
$(F)/nih/metadata.csv: $(if $(QUICK),$(F)/others/no_finding)
	PYTHONPATH=tests $(BIN)/python -m figures.nih_table $(NIH) $(@D)
XRAYS := $(if $(QUICK),$(F)/xrays/README.md)

# One encoder for every protocol: it has learned from another hospital's X-rays alone
$(F)/encoder/results.json: $(F)/nih/metadata.csv
	$(CODE) pretrain --data $(<D) --output $(@D) $(PRETRAIN)
$(F)/tb-vit/%/results.json: $(XRAYS) $(F)/encoder/results.json
	$(AS_TB) --protocol $* --model $(F)/encoder $(VIT) $(PRETRAINED)
$(F)/tb-vit-unlearned/%/results.json: $(XRAYS)
	$(AS_TB) --protocol $* --model vit-light --from_scratch $(VIT) $(PRETRAINED)
$(F)/tb-resnet/%/results.json: $(XRAYS)
	$(AS_TB) --protocol $* --model resnet-light --from_scratch $(RESNET)
# The same of the lungs that the protocol's own lung model finds
$(F)/tb-lungs/%/results.json: $(F)/lungs/%/results.json
	$(AS_TB) --protocol $* --model resnet-light --from_scratch $(RESNET) --region lungs --segmenter $(<D)
$(F)/tb-resnet/nih/results.json: $(F)/tb-resnet/default/results.json $(F)/nih/metadata.csv
	$(CODE) evaluate --model $(<D) --data $(F)/nih --split all --output $(@D)

$(F)/lungs-first/%/results.json: $(XRAYS)
	$(TRAIN) --protocol $* --model segformer-light --from_scratch $(FIRST) $(LUNGS) --learning_rate 1.5e-3
$(F)/lungs-then/%/results.json: $(F)/lungs-first/%/results.json
	$(TRAIN) --protocol $* --model $(<D) $(THEN) $(LUNGS) --learning_rate 6e-4
$(F)/lungs/%/results.json: $(F)/lungs-then/%/results.json
	$(TRAIN) --protocol $* --model $(<D) $(LAST) $(LUNGS) --learning_rate 4e-4

$(F)/read/nih/predictions.parquet: $(F)/lungs/default/results.json $(F)/nih/metadata.csv
	$(CODE) predict --data $(F)/nih --segmenter $(<D) --output $(@D)
$(F)/read/%/predictions.parquet: $(F)/lungs/%/results.json
	$(CODE) predict --data $(DATA) --segmenter $(<D) --output $(@D)
