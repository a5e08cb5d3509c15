package apigw

import (
	"github.com/aws/aws-lambda-go/lambda"

	"postern/shared/api"
	"postern/shared/route"
)

// Start serves the routes of f in one piece for as long as the process lives. It
// returns only to report a fault of cfg.
func Start(f route.Function, cfg api.Config) error {
	handler, err := New(f, cfg)
	if err != nil {
		return err
	}
	lambda.Start(Buffered(handler))
	return nil
}

// StartStreaming is Start in the streaming form; under `sam local` in one piece.
func StartStreaming(f route.Function, cfg api.Config) error {
	if SAMLocal() {
		return Start(f, cfg)
	}
	handler, err := New(f, cfg)
	if err != nil {
		return err
	}
	lambda.Start(Streamed(handler))
	return nil
}
