// Keys serves what administrators do: issued keys, the audit log, usage.
package main

import (
	"log"
	"os"

	"postern/functions"
	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/audit"
	"postern/shared/keys"
	"postern/shared/route"
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
	ledger, chain := usage.New(table, logger, nil), &audit.Log{Table: table}
	admin := &keys.Admin{Table: table, Audit: chain, DefaultRate: s.RateLimit, LastUsed: ledger.LastUsed}
	handlers := admin.Handlers()
	handlers["audit.list"], handlers["usage.list"] = chain.List, ledger.List
	log.Fatal(apigw.Start(route.KeysFunction, api.Config{
		Handlers: handlers, Log: logger, Limiter: ledger, Usage: ledger, RateLimit: s.RateLimit, CORSOrigins: s.CORSOrigins,
	}))
}
