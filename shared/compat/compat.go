// Package compat speaks the wire formats of others, one file each: elizaos,
// omnidev, openai, txtai. A file translates and nothing more: the caller, its scopes and
// limits, the agents and their models are the same as on our own routes, and so
// is the error table, but for the shape in which OpenAI's clients want errors.
//
// Their clients send fields that we don't act on, so unknown fields are passed
// over here, and only here.
package compat

import (
	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/jobs"
)

// Listings is the handlers that show agents, by the names of their routes.
func Listings(listing *agents.Listing) map[string]api.Handler {
	return map[string]api.Handler{
		"openai.models":  openAIModels(listing),
		"openai.model":   openAIModel(listing),
		"elizaos.agents": elizaOSAgents(listing),
	}
}

// Chats is the handlers that run agents, by the names of their routes.
func Chats(chat *agents.Chat) map[string]api.Handler {
	return map[string]api.Handler{
		"openai.completions": openAICompletions(chat),
		"omnidev.ask":        omniDevAsk(chat),
		"txtai.workflow":     txtaiWorkflow(chat),
	}
}

// Jobs is the handlers that show asynchronous runs, by the names of their routes.
func Jobs(store *jobs.Store) map[string]api.Handler {
	return map[string]api.Handler{
		"omnidev.jobs":   omniDevList(store),
		"omnidev.job":    omniDevGet(store),
		"omnidev.delete": omniDevDelete(store),
	}
}

// Notices is what callbacks are told of jobs that came by these formats, by the
// type of the job.
func Notices() map[string]func(jobs.Job) jobs.Notice {
	return map[string]func(jobs.Job) jobs.Notice{askType: omniDevNotice}
}
