package main

import (
	"context"
	"log/slog"
	"os"

	"postern/shared/agents"
	"postern/shared/model/bedrock"
	"postern/shared/model/offline"
	"postern/shared/model/openai"
	"postern/shared/secret"
	"postern/shared/secret/secretsmanager"
	"postern/shared/settings"
)

// newChat is the agents of the package's file, with their models. It warns of
// those that Bedrock will refuse, before a caller meets it.
func newChat(s settings.Settings, log *slog.Logger) (*agents.Chat, error) {
	models, err := models(s)
	if err != nil {
		return nil, err
	}
	file, err := models.Load(s.AgentsFile, s.Model)
	if err != nil {
		return nil, err
	}
	for _, a := range file.Agents {
		if a.Model.Provider == bedrock.Provider && !bedrock.Covered(s.BedrockARNs, os.Getenv("AWS_REGION"), a.Model.Name) {
			log.Warn("No ARN of the parameter BedrockModelArns covers this agent's model: its chats are refused unless ChatPolicyArns allow them",
				"agent", a.Name, "model", a.Model.String())
		}
	}
	return &agents.Chat{File: file, Models: models, Timeout: s.ChatTimeout}, nil
}

// models is every model that a deployment can call. None of them makes a call
// before it is asked.
func models(s settings.Settings) (agents.Models, error) {
	key, err := modelKey(s)
	if err != nil {
		return nil, err
	}
	compatible, err := openai.New(openai.Config{BaseURL: s.OpenAIBaseURL, Key: key})
	if err != nil {
		return nil, err
	}
	amazon, err := bedrock.New(os.Getenv)
	if err != nil {
		return nil, err
	}
	return agents.Models{offline.FullName: offline.New(), "openai": compatible, "bedrock": amazon}, nil
}

// modelKey reads the provider's key from its secret, where there is one: it is
// never in the environment of a Lambda.
func modelKey(s settings.Settings) (func(context.Context) (secret.String, error), error) {
	if s.ModelKeyARN == "" {
		return nil, nil
	}
	store, err := secretsmanager.New(s.ModelKeyARN, os.Getenv)
	if err != nil {
		return nil, err
	}
	return (&secret.Cached{Store: store, CacheFor: s.TokenCache}).Get, nil
}
