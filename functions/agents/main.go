// Agents serves what there is to know about agents and callers.
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
	file, err := agents.Load(s.AgentsFile, s.Model)
	if err != nil {
		log.Fatal(err)
	}
	listing := agents.NewListing(file)
	handlers := compat.Listings(listing)
	handlers["agents.list"], handlers["agents.get"], handlers["whoami"] = listing.List, listing.Get, api.WhoAmI(s.RateLimit)
	log.Fatal(apigw.Start(route.AgentsFunction, api.Config{
		Handlers:    handlers,
		Log:         api.NewLogger(os.Stderr, s.LogLevel),
		Limiter:     limit.Hourly{Store: &limit.Memory{}},
		RateLimit:   s.RateLimit,
		CORSOrigins: s.CORSOrigins,
	}))
}
