package apigw_test

import (
	"testing"

	"postern/shared/apigw"
)

// Under `sam local` the name of a resource is no value, unless the resource is on
// this machine.
func TestTheEnvironmentUnderSAMLocal(t *testing.T) {
	for _, row := range []struct {
		name            string
		local, endpoint string // "" isn't set
		want            string
	}{
		{"TOKEN_SECRET_ARN", "", "", "value"},
		{"TOKEN_SECRET_ARN", "true", "AWS_ENDPOINT_URL_SECRETS_MANAGER", ""},
		{"TABLE_NAME", "", "", "value"},
		{"TABLE_NAME", "true", "", ""},
		{"TABLE_NAME", "true", "AWS_ENDPOINT_URL_SQS", ""},
		{"TABLE_NAME", "true", "AWS_ENDPOINT_URL_DYNAMODB", "value"},
		{"JOBS_QUEUE_URL", "", "", "value"},
		{"JOBS_QUEUE_URL", "false", "", "value"},
		{"JOBS_QUEUE_URL", "true", "", ""},
		{"JOBS_QUEUE_URL", "true", "AWS_ENDPOINT_URL_DYNAMODB", ""},
		{"JOBS_QUEUE_URL", "true", "AWS_ENDPOINT_URL_SQS", "value"},
		{"LOG_LEVEL", "true", "", "value"},
		{"LOG_LEVEL", "true", "AWS_ENDPOINT_URL_SQS", "value"},
	} {
		t.Run(row.name+" "+row.local+" "+row.endpoint, func(t *testing.T) {
			t.Setenv(row.name, "value")
			t.Setenv("AWS_SAM_LOCAL", row.local)
			if row.endpoint != "" {
				t.Setenv(row.endpoint, "http://127.0.0.1:1")
			}
			if got := apigw.Getenv(row.name); got != row.want {
				t.Errorf("%q, want %q", got, row.want)
			}
		})
	}
}
