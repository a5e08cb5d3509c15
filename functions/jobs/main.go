// Jobs serves callers what is kept of theirs: conversations, and asynchronous runs.
package main

import (
	"log"
	"maps"
	"os"

	"postern/functions"
	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/compat"
	"postern/shared/jobs"
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
	ledger, runs := usage.New(table, logger, nil), &jobs.Store{Table: table}
	handlers := runs.Handlers()
	maps.Copy(handlers, (&sessions.Store{Table: table}).Handlers())
	maps.Copy(handlers, compat.Jobs(runs))
	log.Fatal(apigw.Start(route.JobsFunction, api.Config{
		Handlers: handlers, Log: logger, Limiter: ledger, Usage: ledger, RateLimit: s.RateLimit, CORSOrigins: s.CORSOrigins,
	}))
}
