package apigw

import "os"

// SAMLocal reports whether this process runs under `sam local`, which can't
// stream and doesn't know an authorizer's error.
func SAMLocal() bool { return os.Getenv("AWS_SAM_LOCAL") == "true" }

// Getenv is os.Getenv, except that `sam local` hands over the name of a resource
// ("TokenSecret", "Table") where AWS has the resource: that is no value. A table
// of that name may be in a DynamoDB of this machine, if one is named.
func Getenv(name string) string {
	if SAMLocal() && (name == "TOKEN_SECRET_ARN" || name == "TABLE_NAME" && os.Getenv("AWS_ENDPOINT_URL_DYNAMODB") == "") {
		return ""
	}
	return os.Getenv(name)
}
