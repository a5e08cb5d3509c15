package agents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"postern/shared/auth"
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
// it refuses a file with an agent whose model is not among them, and such a
// fallback, whether or not an agent needs it.
func (m Models) Load(path, fallback string) (*File, error) {
	f, err := Load(path, fallback)
	if err != nil {
		return nil, err
	}
	inherited, _ := model.ParseName(fallback) // which Load has read, too
	if err := m.check("MODEL", inherited); err != nil {
		return nil, err
	}
	for _, a := range f.Agents {
		if err := m.check(cmp.Or(a.ModelWhere, "MODEL"), a.Model); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// check refuses the name of a model that there isn't; where is what it is from.
func (m Models) check(where string, name model.Name) error {
	for _, known := range m.names() {
		provider, _, _ := strings.Cut(known, "/")
		if bare, _ := model.ParseName(provider); name == bare {
			return fmt.Errorf("%s: %s is a provider and no model; write %s", where, provider, known)
		}
	}
	if m.find(name) == nil {
		return fmt.Errorf("%s: there is no model %s; there is %s", where, name, strings.Join(m.names(), ", "))
	}
	return nil
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

// Runner runs what a file offers, with a process' models.
type Runner struct {
	File   *File
	Models Models
	Budget Budget // nil: callers who have a budget are refused
}

// Runnable is what can answer a caller: an agent, or the workflow. Only Find
// makes one, so nothing runs that its caller may not use, and all that runs is on
// its caller's account.
type Runnable struct {
	caller   auth.Caller
	workflow *Workflow // nil: one agent answers
	agents   []Agent   // the one, or that of each step
}

// Find returns the agent or the workflow of that name, if the caller may use
// it; a workflow takes the right to each of its agents. Without a name it is
// the workflow, else the first agent that the caller may use. What there isn't
// and what the caller may not use are alike.
func (r Runner) Find(caller auth.Caller, name string) (Runnable, bool) {
	if w := r.File.Workflow; w != nil && (name == "" || name == w.Name) {
		if agents := r.agentsOf(w, caller); agents != nil {
			return Runnable{caller, w, agents}, true
		}
	}
	for _, a := range r.File.Agents {
		if caller.MayUse(a.Name) && (name == "" || name == a.Name) {
			return Runnable{caller: caller, agents: []Agent{a}}, true
		}
	}
	return Runnable{}, false
}

// agentsOf returns the agent of each step of w, if the caller may use them all.
func (r Runner) agentsOf(w *Workflow, caller auth.Caller) []Agent {
	var list []Agent
	for _, step := range w.Steps {
		i := slices.IndexFunc(r.File.Agents, func(a Agent) bool { return a.Name == step.Agent })
		if i < 0 || !caller.MayUse(step.Agent) {
			return nil
		}
		list = append(list, r.File.Agents[i])
	}
	return list
}

// Name is what a reply calls the runnable: the agent's name, the workflow's, or
// that of the agent of its last step if the workflow has none.
func (r Runnable) Name() string {
	if r.workflow != nil && r.workflow.Name != "" {
		return r.workflow.Name
	}
	return r.agents[len(r.agents)-1].Name
}

// Model is the model that the answer comes from: the agent's, or that of the
// last step.
func (r Runnable) Model() model.Name { return r.agents[len(r.agents)-1].Model }

// Input is a caller's part of a run. Model, system prompt and tools are never
// the caller's.
type Input struct {
	// Messages is the conversation, oldest first; the last, a user's, is the one
	// to answer. An agent is told all of it. A workflow works on the last alone,
	// or on the file's input if that is blank.
	Messages []model.Message

	// Past is how many of the first Messages were said earlier in a conversation
	// of ours, in pairs. Of them an agent is told as many of the last as its model
	// has room for.
	Past int

	// Bounds as in model.Request. In a workflow they are those of the last step,
	// whose text is the answer.
	MaxTokens   int
	Temperature *float64
	StopAt      []string
}

// Ask is the input of one message without a conversation before it.
func Ask(message string) Input {
	return Input{Messages: []model.Message{{Role: model.User, Text: message}}}
}

// Event is one piece of a run. Exactly one of its parts is there: Step, Result,
// or else Text.
type Event struct {
	Text   string  // of the answer, as it arrives
	Step   *Began  // a step of a workflow runs
	Result *Result // the run is at its end
}

// Began is a step that runs.
type Began struct {
	Step  string `json:"step"`
	Agent string `json:"agent"`
	Model string `json:"model"` // provider/name
}

// Result is how a run ended.
type Result struct {
	Stop  model.StopReason // of the last model
	Usage model.Usage      // of all models together
}

// Run lets what answer in. It yields the text of the answer as it arrives and
// ends with one Result; after an error, which is a model's, ctx's, the Budget's
// or ErrPromptTooLarge, nothing follows.
//
// A workflow's steps run one after the other, each with the results before it
// (prompt.go says how it is told); the text of the last is the answer. A Step
// comes before each: the first as soon as its model begins to answer, so that a
// run that can't begin fails before its first event, the others at once. The
// sequence is single-use; a run stops between steps and inside them when the
// consumer breaks out or ctx ends.
func (r Runner) Run(ctx context.Context, what Runnable, in Input) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		p := &progress{yield: yield}
		err := r.run(ctx, what, in, p)
		switch {
		case errors.Is(err, errLeft):
		case err != nil:
			yield(Event{}, err)
		default:
			yield(Event{Result: &p.result}, nil)
		}
	}
}

// errLeft says that the consumer wants no more.
var errLeft = errors.New("the consumer of a run has left")

// errUnfinished is the end of a stream that may have been cut.
var errUnfinished = fmt.Errorf("%w: its stream ended without a stop", model.ErrFailed)

// progress is a run under way.
type progress struct {
	yield  func(Event, error) bool
	begun  bool // something was sent
	result Result
}

func (p *progress) send(e Event) error {
	p.begun = true
	if !p.yield(e, nil) {
		return errLeft
	}
	return nil
}

func (p *progress) say(text string) error { return p.send(Event{Text: text}) }

func (r Runner) run(ctx context.Context, what Runnable, in Input, p *progress) error {
	if what.workflow == nil {
		a := what.agents[0]
		for {
			req := model.Request{Model: a.Model.Name, System: a.SystemPrompt(), Messages: in.Messages}
			err := r.turn(ctx, what.caller, a, in.bound(req), p, nil, p.say)
			if !errors.Is(err, model.ErrTooLong) || p.begun || in.Past < 2 {
				return err
			}
			in = in.shorter()
		}
	}
	w, input := what.workflow, in.last()
	if strings.TrimSpace(input) == "" {
		input = w.Input
	}
	var results []result
	for i, a := range what.agents {
		if err := ctx.Err(); err != nil {
			return err
		}
		req, err := w.request(i, a, input, results)
		if err != nil {
			return err
		}
		var text resultText
		say := text.add
		if i == len(what.agents)-1 {
			req, say = in.bound(req), p.say
		}
		begin := func() error {
			return p.send(Event{Step: &Began{w.Steps[i].Name, a.Name, a.Model.String()}})
		}
		if i > 0 {
			if err := begin(); err != nil {
				return err
			}
			begin = nil
		}
		if err := r.turn(ctx, what.caller, a, req, p, begin, say); err != nil {
			return err
		}
		results = append(results, result{w.Steps[i].Name, a.Name, text.String()})
	}
	return nil
}

// turn asks the model of a once, on the caller's account. begin, if there is one,
// is called as soon as the model answers, say with each text; an error of theirs
// ends the turn.
//
// A model that was not there, or did not take that much, has used nothing; one that
// refused has written nothing, and may have read all. Of every other failure nobody
// knows, nor of an answer whose usage is told as nothing at all.
func (r Runner) turn(ctx context.Context, caller auth.Caller, a Agent, req model.Request, p *progress, begin func() error, say func(string) error) error {
	one := r.Models.find(a.Model)
	if one == nil {
		return fmt.Errorf("%w: no model %s", model.ErrUnavailable, a.Model)
	}
	req.Once = caller.TokensPerDay != nil // what is set aside is for one call
	settle, err := r.reserve(ctx, caller, &req)
	if err != nil {
		return err
	}
	heard, done, used := false, false, 0
	for event, err := range one.Stream(ctx, req) {
		switch {
		case heard:
		case err != nil && model.Unused(err):
			settle(ctx, 0)
		case errors.Is(err, model.ErrRefused):
			settle(ctx, int64(toldBy(req)))
		}
		heard = true
		if err == nil && begin != nil {
			err, begin = begin(), nil
		}
		switch {
		case err != nil:
		case event.Stop != "":
			done = true
			p.result.Stop = event.Stop
			in, out := bounded(event.Usage.InputTokens), bounded(event.Usage.OutputTokens)
			p.result.Usage.InputTokens += in
			p.result.Usage.OutputTokens += out
			used += in + out
		case event.ToolCall == nil: // no tools are offered, so a call can't be answered
			err = say(event.Text)
		}
		if err != nil {
			return err
		}
	}
	if !done {
		return errUnfinished
	}
	if used > 0 {
		settle(ctx, int64(used))
	}
	return nil
}

// bounded is what a model may claim to have used for one answer: no sum of such
// numbers overflows.
func bounded(tokens int) int { return min(max(tokens, 0), 1<<31) }

// last is the text of the last message.
func (in Input) last() string {
	if len(in.Messages) == 0 {
		return ""
	}
	return in.Messages[len(in.Messages)-1].Text
}

// shorter is in without the older half of the past.
func (in Input) shorter() Input {
	drop := (in.Past/2 + 1) / 2 * 2 // whole pairs
	in.Messages, in.Past = in.Messages[drop:], in.Past-drop
	return in
}

// bound is req with the bounds of in.
func (in Input) bound(req model.Request) model.Request {
	req.MaxTokens, req.Temperature, req.StopAt = in.MaxTokens, in.Temperature, in.StopAt
	return req
}
