package agents_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/shared/agents"
	"postern/shared/auth"
	"postern/shared/model"
)

// P18: a model that nobody here can run stops the start, and the message names
// the place and the cure.
func TestModelsLoad(t *testing.T) {
	const body = "agents:\n  judge: {role: r}\n"
	for _, row := range []struct {
		name, file, fallback string
		want                 string // of the error; "": none
	}{
		{"the fallback's provider is there", body, "test/one", ""},
		{"the file's provider is there", "llm: test/one\n" + body, "other/x", ""},
		{"the agent's provider is there", "agents:\n  judge: {role: r, llm: other/two}\n", "test/one", ""},
		{"a single model is there", body, "single/model", ""},
		{"the fallback's is not", body, "absent/x",
			`MODEL: there is no model absent/x; there is other/<name>, single/model, test/<name>`},
		{"the fallback's is not, and nobody needs it", "llm: test/one\n" + body, "absent/x",
			`MODEL: there is no model absent/x; there is`},
		{"a bare name is one of openai/, and the message says so", body, "tess",
			`MODEL: there is no model openai/tess; there is other/<name>, single/model, test/<name>`},
		{"a provider alone is no model", body, "test", `MODEL: test is a provider and no model; write test/<name>`},
		{"nor is that of a single one", body, "single", `MODEL: single is a provider and no model; write single/model`},
		{"nor in the file", "llm: single\n" + body, "test/one", `FILE:1: llm: single is a provider and no model; write single/model`},
		{"another model of a single one's provider", body, "single/other", `MODEL: there is no model single/other; there is`},
		{"the file's is not", "llm: absent/x\n" + body, "test/one",
			`FILE:1: llm: there is no model absent/x; there is other/<name>, single/model, test/<name>`},
		{"one agent's is not", body + "  clerk:\n    role: r\n    llm: gpt-4o\n", "test/one",
			`FILE:5: agents.clerk.llm: there is no model openai/gpt-4o; there is other/<name>, single/model, test/<name>`},
		{"nothing else is looked at in a bad file", "agents:\n", "absent/x", `FILE:1: agents: `},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "agents.yaml")
			if err := os.WriteFile(path, []byte(row.file), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := agents.Models{"test": says(), "other": says(), "single/model": says()}.Load(path, row.fallback)
			switch {
			case row.want == "" && (err != nil || len(f.Agents) != 1):
				t.Errorf("refused: %v", err)
			case row.want != "" && (err == nil || f != nil):
				t.Error("not refused")
			case row.want != "" && !strings.HasPrefix(strings.ReplaceAll(err.Error(), path, "FILE"), row.want):
				t.Errorf("got  %v\nwant %s", err, row.want)
			}
		})
	}
}

// A provider that is missing after all is a backend that isn't there, for that
// agent alone; nothing falls back to another model.
func TestRunWithoutProvider(t *testing.T) {
	file := mustParse(t, "agents: {judge: {role: r, llm: test/one}}")
	runner := agents.Runner{File: file, Models: agents.Models{"other": says("wrong model")}}
	judge, _ := runner.Find(auth.RootCaller(), "judge")
	n := 0
	for event, err := range runner.Run(t.Context(), judge, agents.Ask("m")) {
		n++
		if !errors.Is(err, model.ErrUnavailable) || event != (agents.Event{}) {
			t.Errorf("%+v, %v", event, err)
		}
	}
	if n != 1 {
		t.Errorf("%d events, want one", n)
	}
}
