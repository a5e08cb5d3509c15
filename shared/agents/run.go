package agents

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"postern/shared/model"
)

// Models is the providers that a process has, by name: "offline", "openai".
type Models map[string]model.Model

// Load is the package's Load for a process that runs agents with the models m:
// it refuses a file with an agent whose provider is not among them.
func (m Models) Load(path, fallback string) (*File, error) {
	f, err := Load(path, fallback)
	if err != nil {
		return nil, err
	}
	for _, a := range f.Agents {
		if m[a.Model.Provider] != nil {
			continue
		}
		where := a.ModelWhere
		if where == "" {
			where = "MODEL"
		}
		fault := fmt.Sprintf("there is no model provider %q", a.Model.Provider)
		if a.Model.Provider == "openai" {
			fault += ", which a bare name means"
		}
		return nil, fmt.Errorf("%s: %s; write a model of another: %s/<name>", where, fault,
			strings.Join(slices.Sorted(maps.Keys(m)), "/<name>, "))
	}
	return f, nil
}

// Run lets agent a answer one message: its prompt and the message, one call of
// its model. The events are the model's.
func (m Models) Run(ctx context.Context, a Agent, message string) iter.Seq2[model.Event, error] {
	provider := m[a.Model.Provider]
	if provider == nil {
		return func(yield func(model.Event, error) bool) {
			yield(model.Event{}, fmt.Errorf("%w: no provider %q", model.ErrUnavailable, a.Model.Provider))
		}
	}
	return provider.Stream(ctx, model.Request{
		Model:    a.Model.Name,
		System:   a.SystemPrompt(),
		Messages: []model.Message{{Role: model.User, Text: message}},
	})
}
