# Postern. `make help` lists what there is to make.

.DEFAULT_GOAL := help
SHELL := /bin/sh

# What the Lambdas run on; `sam build` for an x86 stack is `GOARCH=amd64 sam build`.
GOARCH ?= arm64
AGENTS_FILE ?= agents.yaml

FOLDERS := authorizer functions/agents functions/chat functions/worker functions/jobs functions/keys functions/health
FUNCTIONS := AuthorizerFunction AgentsFunction ChatFunction WorkerFunction JobsFunction KeysFunction HealthFunction

LAMBDA := CGO_ENABLED=0 GOOS=linux GOARCH=$(GOARCH) go build -trimpath -ldflags '-s -w' -tags lambda.norpc
HOST := env -u GOOS -u GOARCH go

.PHONY: help run build test lint bench timing budgets deploy local-api $(FUNCTIONS:%=build-%)

help: ## list the targets
	@sed -n 's/^\([a-z.-]*\):.*## /\1\t/p' Makefile | expand -t 12

run: .bin/postern ## build Postern and serve agents.yaml on this machine
	@exec .bin/postern run

.PHONY: .bin/postern
.bin/postern:
	@test -x $@ || echo 'Building Postern; the first time takes a minute or two.' >&2
	@$(HOST) build -trimpath -o $@ ./cmd/postern

build: $(FOLDERS:%=.bin/lambda/%/bootstrap) ## build every Lambda into .bin/lambda

.PHONY: $(FOLDERS:%=.bin/lambda/%/bootstrap)
$(FOLDERS:%=.bin/lambda/%/bootstrap): .bin/lambda/%/bootstrap:
	@$(LAMBDA) -o $@ ./$*

test: ## run every test
	go test ./...

lint: ## vet, staticcheck, gofmt
	@test -z "$$(gofmt -l .)" || { gofmt -l . >&2; echo 'these files want gofmt -w' >&2; exit 1; }
	go vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...

bench: ## measure the frame, the authorizer and a chat beside bare ones
	go run ./tests/bench

timing: ## show that the time to refuse a token tells nothing of it
	go run ./tests/timing

budgets: ## build every Lambda for arm64 and weigh it
	go run ./tests/budgets

deploy: ## build and deploy to AWS
	sam build
	sam deploy

local-api: env.json ## run the Lambdas in Docker with `sam local`
	@case "$$(uname -m)" in x86_64) export GOARCH=amd64; env=x86;; *) env=default;; esac; \
	sam build --config-env $$env && exec sam local start-api --config-env $$env

env.json: ## write a random API token for `sam local`
	@umask 077; token=$$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n'); \
	printf '{"AuthorizerFunction":{"API_TOKEN":"%s"}}\n' "$$token" > $@; \
	echo "wrote $@: its API_TOKEN opens http://127.0.0.1:3000" >&2

# What `sam build` calls, one target a function, with ARTIFACTS_DIR set.
build-AuthorizerFunction: ; @$(LAMBDA) -o '$(ARTIFACTS_DIR)/bootstrap' ./authorizer
build-HealthFunction:     ; @$(LAMBDA) -o '$(ARTIFACTS_DIR)/bootstrap' ./functions/health
build-JobsFunction:       ; @$(LAMBDA) -o '$(ARTIFACTS_DIR)/bootstrap' ./functions/jobs
build-KeysFunction:       ; @$(LAMBDA) -o '$(ARTIFACTS_DIR)/bootstrap' ./functions/keys
build-AgentsFunction:     ; @$(LAMBDA) -o '$(ARTIFACTS_DIR)/bootstrap' ./functions/agents && $(bundle)
build-ChatFunction:       ; @$(LAMBDA) -o '$(ARTIFACTS_DIR)/bootstrap' ./functions/chat && $(bundle)
build-WorkerFunction:     ; @$(LAMBDA) -o '$(ARTIFACTS_DIR)/bootstrap' ./functions/worker && $(bundle)

# The agents file goes along, once it is found fit for AWS.
bundle = $(HOST) run ./cmd/postern bundle '$(AGENTS_FILE)' '$(ARTIFACTS_DIR)/agents.yaml'
