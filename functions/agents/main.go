// Agents serves what there is to know about agents and callers.
package main

import (
	"log"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

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
	file, err := agents.Load(s.AgentsFile, s.Model)
	if err != nil {
		log.Fatal(err)
	}
	listing := agents.NewListing(file)
	openai := compat.OpenAI{Listing: listing}
	handler, err := apigw.New(route.AgentsFunction, api.Config{
		Handlers: map[string]api.Handler{"agents.list": listing.List, "agents.get": listing.Get, "whoami": api.WhoAmI(s.RateLimit),
			"openai.models": openai.Models, "openai.model": openai.Model, "elizaos.agents": compat.ElizaOSAgents(listing)},
		Log:         api.NewLogger(os.Stderr, s.LogLevel),
		Limiter:     limit.Hourly{Store: &limit.Memory{}},
		RateLimit:   s.RateLimit,
		CORSOrigins: s.CORSOrigins,
	})
	if err != nil {
		log.Fatal(err)
	}
	lambda.Start(apigw.Buffered(handler))
}
