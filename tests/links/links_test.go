// Package links_test holds each program to what it may link (design.md, "A
// Lambda links only what it uses").
package links_test

import (
	"os/exec"
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
		proxies = "github.com/awslabs/aws-lambda-go-api-proxy/"
	)
	for program, banned := range map[string][]string{
		"postern/authorizer":       {models, yaml, forMain, schema, tests, "net/rpc", "html/template"},
		"postern/functions/agents": {models, store, forMain, schema, tests, "net/rpc", "html/template"},
		"postern/functions/health": {models, store, yaml, forMain, schema, tests, "net/rpc", "html/template"},
		"postern/functions/chat":   {forMain, schema, tests, "net/rpc", "html/template"},
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
				for _, b := range banned {
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
