// Chat serves what runs a model, in the streaming form.
package main

import (
	"log"
	"os"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/compat"
	"postern/shared/limit"
	"postern/shared/route"
	"postern/shared/settings"
)

func main() {
	s, err := settings.Parse(settings.Environment(apigw.Getenv))
	if err != nil {
		log.Fatal(err)
	}
	models, err := models(s)
	if err != nil {
		log.Fatal(err)
	}
	file, err := models.Load(s.AgentsFile, s.Model)
	if err != nil {
		log.Fatal(err)
	}
	chat := &agents.Chat{File: file, Models: models, Timeout: s.ChatTimeout}
	handler, err := apigw.New(route.ChatFunction, api.Config{
		Handlers:    map[string]api.Handler{"chat": chat.Handle, "txtai.workflow": compat.TxtaiWorkflow(chat), "openai.completions": compat.OpenAI{Chat: chat}.Completions},
		Log:         api.NewLogger(os.Stderr, s.LogLevel),
		Limiter:     limit.Hourly{Store: &limit.Memory{}},
		RateLimit:   s.RateLimit,
		CORSOrigins: s.CORSOrigins,
	})
	if err != nil {
		log.Fatal(err)
	}
	apigw.StartStreaming(handler)
}
