package apigw

import (
	"bytes"
	"io"
	"log"
	"os"

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

// StartAuthorizer starts the authorizer. aws-lambda-go repeats each error that it
// is given as a line of plain text; of a refusal our own line has said all.
func StartAuthorizer(a *Authorizer) {
	log.SetOutput(said{os.Stderr})
	lambda.Start(a.Handle)
}

// said leaves out the lines that repeat a refusal.
type said struct{ io.Writer }

func (s said) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(`{"errorMessage":"`+errUnauthorized.Error()+`",`)) {
		return len(line), nil
	}
	return s.Writer.Write(line)
}
