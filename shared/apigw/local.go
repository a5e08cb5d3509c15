package apigw

import "os"

// SAMLocal reports whether this process runs under `sam local`, which can't
// stream and doesn't know an authorizer's error.
func SAMLocal() bool { return os.Getenv("AWS_SAM_LOCAL") == "true" }

// Getenv is os.Getenv, except that `sam local` hands over the name of a resource
// ("TokenSecret", "Table", "JobsQueue") where AWS has the resource: that is no
// value. A table or a queue of that name may be on this machine, if its endpoint
// is named.
func Getenv(name string) string {
	if SAMLocal() {
		endpoint, stands := map[string]string{"TABLE_NAME": "AWS_ENDPOINT_URL_DYNAMODB", "JOBS_QUEUE_URL": "AWS_ENDPOINT_URL_SQS"}[name]
		if name == "TOKEN_SECRET_ARN" || stands && os.Getenv(endpoint) == "" {
			return ""
		}
	}
	return os.Getenv(name)
}
