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

// Models is what a process has: single models by their full name
// ("offline/eliza"), and providers of any number of them ("openai").
type Models map[string]model.Model

// find returns what serves the model of that name; nil: nothing does.
func (m Models) find(name model.Name) model.Model {
	if one := m[name.String()]; one != nil {
		return one
	}
	return m[name.Provider]
}

// Load is the package's Load for a process that runs agents with the models m:
// it refuses a file with an agent whose model is not among them.
func (m Models) Load(path, fallback string) (*File, error) {
	f, err := Load(path, fallback)
	if err != nil {
		return nil, err
	}
	for _, a := range f.Agents {
		if m.find(a.Model) != nil {
			continue
		}
		where := a.ModelWhere
		if where == "" {
			where = "MODEL"
		}
		return nil, fmt.Errorf("%s: there is no model %s; there is %s", where, a.Model, strings.Join(m.names(), ", "))
	}
	return f, nil
}

// names lists what there is as people write it.
func (m Models) names() []string {
	names := slices.Sorted(maps.Keys(m))
	for i, name := range names {
		if !strings.Contains(name, "/") {
			names[i] += "/<name>"
		}
	}
	return names
}

// Run lets agent a answer one message: its prompt and the message, one call of
// its model. The events are the model's.
func (m Models) Run(ctx context.Context, a Agent, message string) iter.Seq2[model.Event, error] {
	one := m.find(a.Model)
	if one == nil {
		return func(yield func(model.Event, error) bool) {
			yield(model.Event{}, fmt.Errorf("%w: no model %s", model.ErrUnavailable, a.Model))
		}
	}
	return one.Stream(ctx, model.Request{
		Model:    a.Model.Name,
		System:   a.SystemPrompt(),
		Messages: []model.Message{{Role: model.User, Text: message}},
	})
}
