package agents_test

import (
	"testing"

	"postern/shared/agents"
)

func TestSystemPrompt(t *testing.T) {
	tests := []struct {
		name  string
		agent agents.Agent
		want  string
	}{
		{"all three parts", agents.Agent{Role: "Judge", Goal: "Be fair", Instructions: "Hear both."}, "Your role: Judge\nYour goal: Be fair\n\nHear both."},
		{"instructions alone stand as they are", agents.Agent{Instructions: "Hear both.\n\nThen decide."}, "Hear both.\n\nThen decide."},
		{"a role alone", agents.Agent{Role: "Judge"}, "Your role: Judge"},
		{"a goal with instructions", agents.Agent{Goal: "Be fair", Instructions: "Hear both."}, "Your goal: Be fair\n\nHear both."},
		{"name and description are not part of it", agents.Agent{Name: "n", Description: "d", Goal: "g"}, "Your goal: g"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.agent.SystemPrompt(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
