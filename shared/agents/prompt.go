package agents

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"postern/shared/model"
)

// SystemPrompt is what a model is told before a conversation, of this form,
// without the parts that the agent doesn't have:
//
//	Your role: <role>
//	Your goal: <goal>
//
//	<instructions>
//
// It depends on nothing else, so a provider can cache it.
func (a Agent) SystemPrompt() string {
	var head []string
	if a.Role != "" {
		head = append(head, "Your role: "+a.Role)
	}
	if a.Goal != "" {
		head = append(head, "Your goal: "+a.Goal)
	}
	return strings.TrimSpace(strings.Join(head, "\n") + "\n\n" + a.Instructions)
}

// ErrPromptTooLarge is a step whose prompt would exceed maxPrompt, because its
// texts repeat a long input or result.
var ErrPromptTooLarge = errors.New("the prompt of a step is too large")

const (
	maxPrompt = 512 << 10 // bytes of a step's prompt, both parts: twice the largest message
	maxResult = 64 << 10  // bytes of a step's result that later steps are shown
)

// result is what a step has brought, cut to maxResult.
type result struct{ step, agent, text string }

// request is what the agent of step i is asked about input after the results
// before. Its system prompt is the agent's, and its one message has this form,
// without the parts that there aren't:
//
//	<instruction>
//
//	Input:
//	<input>
//
//	Expected output: <expected output>
//
//	Result of <step> (<agent>):
//	<text>
//
// Input is a part of the first step, if its instruction doesn't name it: no
// message is ignored. Results are a part of all later steps, the oldest first,
// unless the step names {{previous_output}}; where maxPrompt leaves no room for
// all, the oldest are left out and a line says so.
//
// In the system prompt, the instruction and the expected output, {{input}},
// {{topic}}, {input} and {topic} stand for the input, {{previous_output}} for
// the result before, and {{name}} for a variable of that name, which may be
// topic. That is as PraisonAI has it: there, too, a request's message takes the
// place of the file's input and topic. What is put in is not searched again, so
// no caller and no model can write a placeholder; anything else in braces stays.
func (w *Workflow) request(i int, a Agent, input string, before []result) (model.Request, error) {
	step, previous := w.Steps[i], ""
	if len(before) > 0 {
		previous = before[len(before)-1].text
	}
	fill := w.replacer(input, previous)

	prompt := boundedText{left: maxPrompt}
	fill.WriteString(&prompt, a.SystemPrompt())
	system := prompt.text.String()

	prompt.text.Reset()
	fill.WriteString(&prompt, step.Instruction)
	if i == 0 && !w.namesInput(step.Instruction) {
		prompt.WriteString("\n\nInput:\n" + input)
	}
	if step.ExpectedOutput != "" {
		prompt.WriteString("\n\nExpected output: ")
		fill.WriteString(&prompt, step.ExpectedOutput)
	}
	if !strings.Contains(step.Instruction+step.ExpectedOutput, "{{previous_output}}") {
		prompt.addResults(before)
	}
	if prompt.full {
		return model.Request{}, fmt.Errorf("%w: step %d, of agent %s", ErrPromptTooLarge, i+1, a.Name)
	}
	return model.Request{
		Model:    a.Model.Name,
		System:   system,
		Messages: []model.Message{{Role: model.User, Text: prompt.text.String()}},
	}, nil
}

// replacer puts in what the placeholders of w's texts stand for.
func (w *Workflow) replacer(input, previous string) *strings.Replacer {
	var pairs []string
	for name, text := range w.Variables {
		pairs = append(pairs, "{{"+name+"}}", text)
	}
	// Of two pairs for one placeholder the first counts: a variable's.
	return strings.NewReplacer(append(pairs,
		"{{input}}", input, "{{topic}}", input, "{input}", input, "{topic}", input,
		"{{previous_output}}", previous)...)
}

// namesInput reports whether the input is put into text somewhere. No text of a
// file has a control character.
func (w *Workflow) namesInput(text string) bool {
	return strings.Contains(w.replacer("\x00", "").Replace(text), "\x00")
}

// boundedText is a prompt that is being written. It takes what there is room
// for; full says that it was asked to take more.
type boundedText struct {
	text strings.Builder
	left int
	full bool
}

func (b *boundedText) Write(p []byte) (int, error) { return b.WriteString(string(p)) }

func (b *boundedText) WriteString(s string) (int, error) {
	if b.full = b.full || len(s) > b.left; b.full {
		return 0, ErrPromptTooLarge
	}
	b.left -= len(s)
	return b.text.WriteString(s)
}

// addResults adds as many of the last results as there is room for.
func (b *boundedText) addResults(results []result) {
	const omitted = "\n\nEarlier results are left out."
	room, first := b.left-len(omitted), len(results)
	for first > 0 {
		if room -= len(results[first-1].String()); room < 0 {
			break
		}
		first--
	}
	if first > 0 {
		b.WriteString(omitted)
	}
	for _, r := range results[first:] {
		b.WriteString(r.String())
	}
}

func (r result) String() string {
	return "\n\nResult of " + r.step + " (" + r.agent + "):\n" + r.text
}

// resultText collects what a step says, up to maxResult bytes.
type resultText struct {
	text strings.Builder
	cut  bool
}

func (r *resultText) add(piece string) error {
	if r.cut {
		return nil
	}
	if room := maxResult - r.text.Len(); len(piece) > room {
		for room > 0 && !utf8.RuneStart(piece[room]) {
			room--
		}
		piece, r.cut = piece[:room], true
	}
	r.text.WriteString(piece)
	return nil
}

func (r *resultText) String() string {
	if r.cut {
		return r.text.String() + "\n[The rest is left out.]"
	}
	return r.text.String()
}
