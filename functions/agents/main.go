// Agents serves what there is to know about agents and callers.
package main

import (
	"log"
	"os"

	"postern/functions"
	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/compat"
	"postern/shared/route"
	"postern/shared/settings"
	"postern/shared/usage"
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
	table, err := functions.Table(s)
	if err != nil {
		log.Fatal(err)
	}
	logger := api.NewLogger(os.Stderr, s.LogLevel)
	ledger, listing := usage.New(table, logger, nil), agents.NewListing(file)
	handlers := compat.Listings(listing)
	handlers["agents.list"], handlers["agents.get"], handlers["whoami"] = listing.List, listing.Get, api.WhoAmI(s.RateLimit)
	log.Fatal(apigw.Start(route.AgentsFunction, api.Config{
		Handlers: handlers, Log: logger, Limiter: ledger, Usage: ledger, RateLimit: s.RateLimit, CORSOrigins: s.CORSOrigins,
	}))
}
