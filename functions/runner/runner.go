// Package runner is what those Lambdas share that run agents: chat, for who
// waits, and worker, for who doesn't.
package runner

import (
	"context"
	"log/slog"
	"os"
	"time"

	"postern/shared/agents"
	"postern/shared/jobs"
	"postern/shared/jobs/sqs"
	"postern/shared/model/bedrock"
	"postern/shared/model/offline"
	"postern/shared/model/openai"
	"postern/shared/secret"
	"postern/shared/secret/secretsmanager"
	"postern/shared/sessions"
	"postern/shared/settings"
	"postern/shared/table"
	"postern/shared/usage"
)

// silence is below the 5 minutes after which a Regional API ends a stream in which
// nothing comes (API Gateway's guide, "Set up response transfer mode").
const silence = 290 * time.Second

// New is the agents of the package's file, with their models, on their callers'
// accounts in t. Where there is a queue, callers needn't wait. It warns of agents
// that Bedrock will refuse, before a caller meets it.
func New(s settings.Settings, t table.Table, ledger *usage.Ledger, log *slog.Logger) (*agents.Chat, error) {
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
	chat := &agents.Chat{
		File:     file,
		Models:   models,
		Timeout:  s.ChatTimeout,
		Silence:  silence,
		Budget:   &usage.Budget{Table: t, Log: log},
		Sessions: &sessions.Store{Table: t, Keep: s.SessionTTL},
		Ran:      ledger.Ran,
	}
	if s.JobsQueueURL != "" {
		queue, err := sqs.New(sqs.Config{QueueURL: s.JobsQueueURL, Getenv: os.Getenv})
		if err != nil {
			return nil, err
		}
		chat.Jobs = &jobs.Store{Table: t, Queue: queue}
	}
	return chat, nil
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
