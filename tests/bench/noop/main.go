// Noop is the baseline of the authorizer: a Lambda of the same event and reply
// types that decides nothing.
package main

import (
	"context"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	lambda.Start(func(context.Context, events.APIGatewayCustomAuthorizerRequestTypeRequest) (events.APIGatewayCustomAuthorizerResponse, error) {
		return events.APIGatewayCustomAuthorizerResponse{
			PrincipalID: "root",
			PolicyDocument: events.APIGatewayCustomAuthorizerPolicy{
				Version: "2012-10-17",
				Statement: []events.IAMPolicyStatement{{
					Action:   []string{"execute-api:Invoke"},
					Effect:   "Allow",
					Resource: []string{"arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod/*"},
				}},
			},
			Context: map[string]any{"kind": "root", "scopes": `["agents:read","chat","admin"]`},
		}, nil
	})
}
