// Chat serves what runs a model, in the streaming form.
package main

import (
	"log"
	"os"

	"postern/functions"
	"postern/functions/runner"
	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/compat"
	"postern/shared/idempotency"
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
	ledger := usage.New(table, logger, nil)
	chat, err := runner.New(s, table, ledger, logger)
	if err != nil {
		log.Fatal(err)
	}
	handlers := compat.Chats(chat)
	handlers["chat"] = idempotency.New(table, logger, s.ChatTimeout, nil).Wrap(chat.Handle)
	log.Fatal(apigw.StartStreaming(route.ChatFunction, api.Config{
		Handlers: handlers, Log: logger, Limiter: ledger, Usage: ledger, RateLimit: s.RateLimit, CORSOrigins: s.CORSOrigins,
	}))
}
