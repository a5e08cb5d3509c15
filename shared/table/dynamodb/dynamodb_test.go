package dynamodb_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"postern/shared/table"
	"postern/shared/table/dynamodb"
	"postern/shared/table/tabletest"
	"postern/tests/dynamofake"
	"postern/tests/moto"
)

// environment is what Lambda gives a function, and where DynamoDB is.
func environment(endpoint string) func(string) string {
	return func(name string) string {
		return map[string]string{
			"AWS_REGION":                "us-east-1",
			"AWS_ACCESS_KEY_ID":         "AKIAEXAMPLE",
			"AWS_SECRET_ACCESS_KEY":     "example",
			"AWS_SESSION_TOKEN":         "example",
			"AWS_ENDPOINT_URL_DYNAMODB": endpoint,
		}[name]
	}
}

// conformance holds the leaf to what every one promises, over one server of
// DynamoDB's wire. create makes an empty table. The machine may be busy, so a
// try has time.
func conformance(t *testing.T, url string, create func(t *testing.T, name string)) {
	var tables atomic.Int64
	tabletest.Run(t, func(t *testing.T, now func() time.Time) table.Table {
		name := fmt.Sprintf("table-%d", tables.Add(1))
		create(t, name)
		leaf, err := dynamodb.New(dynamodb.Config{Table: name, Getenv: environment(url), Now: now, Patience: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	})
}

func TestTable(t *testing.T) {
	t.Parallel()
	fake := dynamofake.Start()
	t.Cleanup(func() {
		for _, v := range fake.Violations() {
			t.Error(v)
		}
		fake.Close()
	})
	conformance(t, fake.URL, func(_ *testing.T, name string) { fake.Create(name) })
}

// TestTableOnDynalite is the same against dynalite, an independent
// implementation of DynamoDB, in a process of its own.
func TestTableOnDynalite(t *testing.T) {
	t.Parallel()
	const folder = "../../../tests/dynalite"
	if _, err := os.Stat(folder + "/node_modules/dynalite/package.json"); err != nil {
		missing(t, "dynalite is not installed: npm ci --prefix tests/dynalite")
	}
	if _, err := exec.LookPath("node"); err != nil {
		missing(t, "node is not installed")
	}
	// Its own command line can't take a port of the system's choice.
	dynalite := exec.Command("node", "-e", `
		const server = require('dynalite')({createTableMs: 0})
		server.listen(0, '127.0.0.1', () => console.log('http://127.0.0.1:' + server.address().port))`)
	dynalite.Dir = folder
	stdout, err := dynalite.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	dynalite.Stderr = os.Stderr
	if err := dynalite.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dynalite.Process.Kill(); dynalite.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url := strings.TrimSpace(line)
	conformance(t, url, func(t *testing.T, name string) { create(t, url, name) })
}

// TestTableOnMoto is the same against moto, a third one.
func TestTableOnMoto(t *testing.T) {
	t.Parallel()
	url := moto.Start(t)
	conformance(t, url, func(t *testing.T, name string) {
		if strings.Contains(t.Name(), "/large:") || strings.Contains(t.Name(), "/together:") {
			t.Skip("moto is slow, and its writes are not atomic")
		}
		create(t, url, name)
	})
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// create makes a table like template.yaml's.
func create(t *testing.T, url, name string) {
	t.Helper()
	client := sdk.New(sdk.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: aws.CredentialsProviderFunc(
		func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "example"}, nil
		})})
	_, err := client.CreateTable(t.Context(), &sdk.CreateTableInput{
		TableName:   &name,
		BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String("pk"), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String("sk"), AttributeType: types.ScalarAttributeTypeS},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String("pk"), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String("sk"), KeyType: types.KeyTypeRange},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for {
		out, err := client.DescribeTable(t.Context(), &sdk.DescribeTableInput{TableName: &name})
		if err != nil {
			t.Fatal(err)
		}
		if out.Table.TableStatus == types.TableStatusActive {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
