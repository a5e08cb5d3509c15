package dynamodb

import (
	"net/http"

	sdk "github.com/aws/aws-sdk-go-v2/service/dynamodb"
)

// Answered is t with do in place of its connections.
func Answered(t *Table, do func(*http.Request) (*http.Response, error)) *Table {
	options := t.client.Options()
	options.HTTPClient = strict{sender(do)}
	return &Table{sdk.New(options), t.name, t.now, t.limit}
}

type sender func(*http.Request) (*http.Response, error)

func (s sender) Do(req *http.Request) (*http.Response, error) { return s(req) }
