// Jobs serves callers what is kept of theirs: conversations.
package main

import (
	"log"
	"os"

	"postern/functions"
	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/route"
	"postern/shared/sessions"
	"postern/shared/settings"
	"postern/shared/usage"
)

func main() {
	s, err := settings.Parse(settings.Environment(apigw.Getenv))
	if err != nil {
		log.Fatal(err)
	}
	table, err := functions.Table(s)
	if err != nil {
		log.Fatal(err)
	}
	logger := api.NewLogger(os.Stderr, s.LogLevel)
	ledger, conversations := usage.New(table, logger, nil), &sessions.Store{Table: table}
	log.Fatal(apigw.Start(route.JobsFunction, api.Config{
		Handlers: conversations.Handlers(), Log: logger, Limiter: ledger, Usage: ledger, RateLimit: s.RateLimit, CORSOrigins: s.CORSOrigins,
	}))
}
