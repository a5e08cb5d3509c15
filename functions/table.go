// Package functions is what those Lambdas share that keep something.
package functions

import (
	"os"

	"postern/shared/apigw"
	"postern/shared/settings"
	"postern/shared/table"
	"postern/shared/table/dynamodb"
	"postern/shared/table/memory"
)

// Table is the stack's table. Under `sam local`, where there is no stack, it is
// one in memory, each function's own: what one writes no other sees, unless a
// DynamoDB of this machine is named by AWS_ENDPOINT_URL_DYNAMODB.
func Table(s settings.Settings) (table.Table, error) {
	if apigw.SAMLocal() && s.TableName == "" {
		return &memory.Table{}, nil
	}
	return dynamodb.New(dynamodb.Config{Table: s.TableName, Getenv: os.Getenv})
}
