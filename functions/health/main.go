// Health serves GET /health, every preflight, and the 404 of every path that
// there is not. It has no secret, no table and no model, so nothing can keep it
// from answering.
package main

import (
	"log"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

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
	handler, err := apigw.New(route.HealthFunction, api.Config{
		Handlers:    map[string]api.Handler{"health": api.Health},
		Log:         api.NewLogger(os.Stderr, s.LogLevel),
		CORSOrigins: s.CORSOrigins,
	})
	if err != nil {
		log.Fatal(err)
	}
	lambda.Start(apigw.Buffered(handler))
}
