// Package links_test holds each program to what it may link (design.md, "A
// Lambda links only what it uses").
package links_test

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/tests/sources"
)

func TestALambdaLinksOnlyWhatItUses(t *testing.T) {
	t.Parallel()
	if err := sources.Depend("../.."); err != nil {
		t.Fatal(err)
	}
	const (
		models  = "postern/shared/model/"
		store   = "postern/shared/secret/secretsmanager"
		yaml    = "github.com/goccy/go-yaml"
		forMain = "github.com/spf13/cobra"
		schema  = "github.com/google/jsonschema-go"
		tests   = "postern/tests/"
		sqlite  = "modernc.org/"
		dynamo  = "github.com/aws/aws-sdk-go-v2/service/dynamodb"
		keys    = "postern/shared/keys"
		audit   = "postern/shared/audit"
		queue   = "github.com/aws/aws-sdk-go-v2/service/sqs"
		files   = "github.com/aws/aws-sdk-go-v2/config" // profiles are for people
		proxies = "github.com/awslabs/aws-lambda-go-api-proxy/"
		client  = "github.com/sashabaranov/go-openai" // for tests: our own model/openai is smaller and stricter
	)
	for program, banned := range map[string][]string{
		"postern/authorizer":       {models, yaml, files, forMain, schema, tests, sqlite, queue, "net/rpc", "html/template"},
		"postern/functions/agents": {models, store, files, forMain, schema, tests, sqlite, keys, audit, queue, "net/rpc", "html/template"},
		"postern/functions/health": {models, store, yaml, files, forMain, schema, tests, sqlite, dynamo, keys, audit, queue, "net/rpc", "html/template"},
		// The shapes of others (compat) are of agents too, which are read from YAML.
		"postern/functions/jobs": {models, store, files, forMain, schema, tests, sqlite, keys, audit, queue, "net/rpc", "html/template"},
		"postern/functions/keys": {models, store, yaml, files, forMain, schema, tests, sqlite, queue, "net/rpc", "html/template"},
		"postern/functions/chat": {files, forMain, schema, tests, sqlite, keys, audit, "net/rpc", "html/template"},
		// It asks whether a job's owner may still call (keys, and with it audit).
		"postern/functions/worker": {files, forMain, schema, tests, sqlite, "net/rpc", "html/template"},
		"postern/cmd/postern":      {schema, tests, "github.com/aws/aws-lambda-go/lambda"},
	} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			out, err := exec.Command("go", "list", "-deps", "-tags", "lambda.norpc", program).Output()
			if err != nil {
				t.Fatal(err)
			}
			for dependency := range strings.Lines(string(out)) {
				dependency = strings.TrimSpace(dependency)
				for _, b := range append(slices.Clone(banned), client) {
					if strings.HasPrefix(dependency, b) {
						t.Errorf("it links %s", dependency)
					}
				}
				if strings.HasPrefix(dependency, proxies) && !strings.HasSuffix(dependency, "/core") && !strings.HasSuffix(dependency, "/httpadapter") {
					t.Errorf("it links %s of the proxy library, of which core and httpadapter are enough", dependency)
				}
			}
		})
	}
}

// TestALeafIsImportedByMainsAlone holds the arrows: what names a technology is
// for mains to choose, and what our clients of AWS share is for leaves.
func TestALeafIsImportedByMainsAlone(t *testing.T) {
	t.Parallel()
	if err := sources.Depend("../.."); err != nil {
		t.Fatal(err)
	}
	leaf := regexp.MustCompile(`^postern/shared/(model/(offline|openai|bedrock)|secret/secretsmanager|table/(memory|sqlite|dynamodb)|jobs/sqs)$`)
	const clients = "postern/shared/awsclient"
	out, err := exec.Command("go", "list", "-f", `{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}{{"\n"}}{{end}}`, "postern/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	leaves := 0
	for line := range strings.Lines(string(out)) {
		importer, imported, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found {
			continue
		}
		if leaf.MatchString(imported) {
			leaves++
			if strings.HasPrefix(importer, "postern/shared/") {
				t.Errorf("%s imports the leaf %s, which mains choose", importer, imported)
			}
		}
		if imported == clients && !leaf.MatchString(importer) {
			t.Errorf("%s imports %s, which is for leaves", importer, imported)
		}
	}
	if leaves < 5 {
		t.Errorf("%d imports of leaves were looked at", leaves)
	}
}
