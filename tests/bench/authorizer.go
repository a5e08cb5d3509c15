package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postern/shared/table/dynamodb"
	"postern/tests/bench/issued"
	"postern/tests/dynamofake"
	"postern/tests/lambdahost"
	"postern/tests/secretsfake"
)

// Turns are short, so that what the machine does meanwhile falls on all sides.
const (
	invocationTurns = 200
	invocations     = 100 // of one turn
)

// authorizer compares a warm invocation with one of a handler that decides
// nothing. A key is read anew each 5 seconds; the median has none of that.
func (v *verdicts) authorizer(ctx context.Context, dir string) error {
	store := secretsfake.Start(secretsfake.Config{})
	defer store.Close()
	secret := store.Create("root")
	secret.Put(root)
	dynamo := dynamofake.Start()
	defer dynamo.Close()
	dynamo.Create("postern")
	key, err := keyOver(dynamo.URL)
	if err != nil {
		return err
	}
	event, err := os.ReadFile("tests/bench/authorizer-event.json")
	if err != nil {
		return err
	}

	sides := []struct{ bootstrap, token string }{{"noop", root}, {"authorizer", root}, {"authorizer", key}}
	var hosts []*lambdahost.Host
	for _, side := range sides {
		host, err := lambdahost.Start(lambdahost.Config{
			Bootstrap: filepath.Join(dir, side.bootstrap),
			Env: []string{
				"TOKEN_SECRET_ARN=" + secret.ARN(), "TOKEN_CACHE_SECONDS=900", "TOKEN_GRACE=0", "AWS_ENDPOINT_URL_SECRETS_MANAGER=" + store.URL,
				"TABLE_NAME=postern", "AWS_ENDPOINT_URL_DYNAMODB=" + dynamo.URL,
			},
			MemoryMB: 256,
			Timeout:  10 * time.Second,
		})
		if err != nil {
			return err
		}
		defer host.Close()
		hosts = append(hosts, host)
	}
	took, err := inTurns(ctx, invocationTurns, len(sides), func(i int) (float64, error) {
		return invoke(hosts[i], []byte(strings.ReplaceAll(string(event), "{token}", sides[i].token)))
	})
	if err != nil {
		return err
	}
	fmt.Printf("authorizer, warm invocation under one Runtime API host, %d × %d in turns, medians\n", invocationTurns, invocations)
	show("no-op", "%8.1f µs", took[0])
	show("root token", "%8.1f µs", took[1])
	show("issued key", "%8.1f µs", took[2])
	v.judge("root token to no-op", "%8.2f", ratio(took[1], took[0]), "≤", 1.15)
	v.judge("issued key to no-op", "%8.2f", ratio(took[2], took[0]), "≤", 1.15)
	if n := store.Total(); n != 1 {
		return fmt.Errorf("%d calls to Secrets Manager, want the first alone", n)
	}
	return nil
}

// keyOver issues a key in the DynamoDB at url.
func keyOver(url string) (token string, err error) {
	env := map[string]string{
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "ASIAEXAMPLEEXAMPLE", "AWS_SECRET_ACCESS_KEY": "example-secret-access-key",
		"AWS_ENDPOINT_URL_DYNAMODB": url,
	}
	t, err := dynamodb.New(dynamodb.Config{Table: "postern", Getenv: func(name string) string { return env[name] }})
	if err != nil {
		return "", err
	}
	return issued.Key(context.Background(), t)
}

// invoke is the median of many warm invocations, in microseconds.
func invoke(host *lambdahost.Host, event []byte) (float64, error) {
	took := make([]float64, 0, invocations)
	for range invocations {
		result, err := host.Invoke(context.Background(), event)
		if err != nil {
			return 0, err
		}
		if result.Err != nil {
			return 0, result.Err
		}
		took = append(took, float64(result.Duration.Nanoseconds())/1000)
	}
	return median(took), nil
}
