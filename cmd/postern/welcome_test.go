package main

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"postern/shared/agents"
	"postern/shared/secret"
	"postern/shared/settings"
)

// An agent that no chat can reach is a warning at the start, and not first a 503.
func TestAgentsWithoutAKeyAreAWarning(t *testing.T) {
	t.Parallel()
	const file = "agents: {a: {role: r, llm: gpt-4o-mini}, b: {role: r, llm: openai/x}, c: {role: r, llm: bedrock/openai}, d: {role: r}}"
	for _, row := range []struct {
		name, text, fallback string
		key, url             string
		want                 string
	}{
		{"neither key nor server", file, "offline/eliza", "", "", "a, b: openai/… models answer them"},
		{"by MODEL", file, "openai/y", "", "", "a, b, d: openai/… models answer them"},
		{"a key", file, "offline/eliza", "sk-canary", "", ""},
		{"a server that may take none", file, "offline/eliza", "", "http://127.0.0.1:11434/v1", ""},
		{"no such model", "agents: {a: {role: r}, b: {role: r, llm: bedrock/x}}", "offline/eliza", "", "", ""},
	} {
		f, err := agents.Parse("agents.yaml", []byte(row.text), row.fallback)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		welcome(&out, &net.TCPAddr{Port: 8080}, settings.Settings{Host: "127.0.0.1", OpenAIKey: secret.New(row.key), OpenAIBaseURL: row.url}, f, secret.String{})
		warned := strings.Contains(out.String(), "OPENAI_API_KEY nor OPENAI_BASE_URL")
		if warned != (row.want != "") || !strings.Contains(out.String(), row.want) || strings.Contains(out.String(), "sk-canary") {
			t.Errorf("%s: it says\n%s", row.name, &out)
		}
	}
}
