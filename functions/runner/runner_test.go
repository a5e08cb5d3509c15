package runner_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"

	"postern/functions/runner"
	"postern/shared/settings"
	"postern/shared/table/memory"
	"postern/shared/usage"
	"postern/tests/logbook"
)

// Issue "real models": an agent whose model Bedrock will refuse is one warning at
// the cold start, which says the cure; all others are none.
func TestAnAgentOutsideBedrockModelArnsIsAWarning(t *testing.T) {
	const file = `agents:
  haiku: {role: r, llm: "bedrock/anthropic.claude-3-5-haiku-20241022-v1:0"}
  nova: {role: r, llm: bedrock/eu.amazon.nova-lite-v1:0}
  eliza: {role: r, llm: offline/eliza}
  other: {role: r, llm: openai/gpt-4o-mini}
  unnamed: {role: r}
`
	t.Setenv("AWS_REGION", "eu-west-1")
	path := t.TempDir() + "/agents.yaml"
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, arns, model string
		want              []string
	}{
		{"nothing is allowed", "", "offline/eliza", []string{"haiku", "nova"}},
		{"one is", "arn:aws:bedrock:eu-west-1::foundation-model/anthropic.*", "offline/eliza", []string{"nova"}},
		{"all are", "arn:aws:bedrock:eu-west-1::foundation-model/anthropic.*,arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.amazon.*", "offline/eliza", nil},
		{"Model counts for who names none", "arn:aws:bedrock:eu-west-1:*:inference-profile/eu.*", "bedrock/amazon.nova-pro-v1:0", []string{"haiku", "unnamed"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			environment := map[string]string{"AGENTS_FILE": path, "MODEL": row.model, "BEDROCK_MODEL_ARNS": row.arns}
			s, err := settings.Parse(settings.Environment(func(name string) string { return environment[name] }))
			if err != nil {
				t.Fatal(err)
			}
			var log logbook.Book
			logger, table := slog.New(slog.NewJSONHandler(&log, nil)), new(memory.Table)
			if _, err := runner.New(s, table, usage.New(table, logger, nil), logger); err != nil {
				t.Fatal(err)
			}
			var agents []string
			for text := range strings.Lines(log.String()) {
				var line struct{ Level, Msg, Agent, Model string }
				if err := json.Unmarshal([]byte(text), &line); err != nil {
					t.Fatal(err)
				}
				agents = append(agents, line.Agent)
				if line.Level != "WARN" || !strings.Contains(line.Msg, "BedrockModelArns") || !strings.HasPrefix(line.Model, "bedrock/") {
					t.Errorf("the log says %s", text)
				}
			}
			if got, want := strings.Join(agents, " "), strings.Join(row.want, " "); got != want {
				t.Errorf("warned of %q, want %q", got, want)
			}
		})
	}
}
