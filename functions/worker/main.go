// Worker runs the jobs in the queue.
package main

import (
	"log"
	"os"

	"postern/functions"
	"postern/functions/runner"
	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/compat"
	"postern/shared/jobs"
	"postern/shared/keys"
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
	worker := &jobs.Worker{
		Store: &jobs.Store{Table: table}, Log: logger, Run: chat.Run, Longest: s.ChatTimeout,
		Present: keys.Present(table), Usage: ledger, Courier: &jobs.Courier{}, Notices: compat.Notices(),
	}
	apigw.StartQueue(worker.Do, logger)
}
