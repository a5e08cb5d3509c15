// Health serves GET /health, every preflight, and the 404 of every path that
// there is not. It has no secret, no table and no model, so nothing can keep it
// from answering.
package main

import (
	"log"
	"os"

	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/route"
	"postern/shared/settings"
)

func main() {
	s, err := settings.Parse(settings.Environment(apigw.Getenv))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(apigw.Start(route.HealthFunction, api.Config{
		Handlers:    map[string]api.Handler{"health": api.Health},
		Log:         api.NewLogger(os.Stderr, s.LogLevel),
		CORSOrigins: s.CORSOrigins,
	}))
}
