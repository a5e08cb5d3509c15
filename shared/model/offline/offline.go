// Package offline is a model that needs no key, no network and no weights:
// ELIZA, after Joseph Weizenbaum, "ELIZA — A Computer Program For the Study of
// Natural Language Communication Between Man And Machine", Communications of
// the ACM 9(1), January 1966. It is not a language model and doesn't say it is.
//
// ELIZA finds the keyword that ranks highest in a message, takes the clause
// around it apart by a pattern, and puts some of the parts into a reply:
//
//	I need a summary of the report.       you need a summary of the report
//	pattern  0 you 0 /wish 1 0            5 is "a", 6 is "summary of the report"
//	reply    What would 5 6 give you?     What would a summary of the report give you?
//
// eliza.go is the paper's mechanism and knows no language; script.go is our
// script for it, in our own words; this file is the model.Model around both.
//
// The paper's program remembers: each rule uses its replies in turn, and what
// was said of "my …" may come back later. Here all that is worked out from the
// request, by replaying the person's turns in it, so nothing is kept between
// calls and the same request always has the same answer.
//
// Of each message the first 2,000 words are read. The cost grows linearly with
// the length of the conversation, and no pattern makes it worse. The system
// prompt, the tools and the temperature change nothing.
package offline

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"unicode/utf8"

	"postern/shared/model"
)

// Provider and Name are the two halves of the model's full name, offline/eliza.
const (
	Provider = "offline"
	Name     = "eliza"

	FullName = Provider + "/" + Name
)

// New returns the model. It may be used by many callers at once.
func New() model.Model { return eliza{newELIZA()} }

type eliza struct{ script *script }

// Stream yields the answer to the last of the person's messages, each event one
// word with the space after it. Another model's name than Name (or none) is
// refused with model.ErrUnavailable: an answer must not pass for another
// model's. Usage counts words.
func (e eliza) Stream(ctx context.Context, req model.Request) iter.Seq2[model.Event, error] {
	return func(yield func(model.Event, error) bool) {
		answer, err := e.answer(ctx, req)
		if err != nil {
			yield(model.Event{}, err)
			return
		}
		end := model.Event{Stop: model.EndTurn}
		for word := range strings.SplitAfterSeq(answer, " ") {
			if err := ctx.Err(); err != nil {
				yield(model.Event{}, err)
				return
			}
			if word == "" { // after the last space, or of no answer at all
				break
			}
			if req.MaxTokens > 0 && end.Usage.OutputTokens == req.MaxTokens {
				end.Stop = model.MaxTokens
				break
			}
			if !yield(model.Event{Text: word}, nil) {
				return
			}
			end.Usage.OutputTokens++
		}
		end.Usage.InputTokens = countInput(req)
		yield(end, nil)
	}
}

// answer replays the conversation and returns the reply to its last turn.
func (e eliza) answer(ctx context.Context, req model.Request) (string, error) {
	if req.Model != "" && req.Model != Name {
		return "", fmt.Errorf("%w: %s has no model %q, only %s", model.ErrUnavailable, Provider, req.Model, Name)
	}
	answer := greeting
	talk := conversation{script: e.script, used: map[*rule]int{}}
	for _, message := range req.Messages {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if message.Role == model.User {
			answer = sentence(talk.respond(message.Text))
		}
	}
	return cutAt(answer, req.StopAt), nil
}

// cutAt ends an answer before the first of the sequences in it. A sequence that
// isn't UTF-8 could cut a character in two, and is in no answer.
func cutAt(answer string, sequences []string) string {
	for _, sequence := range sequences {
		if sequence != "" && utf8.ValidString(sequence) {
			answer, _, _ = strings.Cut(answer, sequence)
		}
	}
	return answer
}

func countInput(req model.Request) int {
	total := countWords(req.System)
	for _, message := range req.Messages {
		total += countWords(message.Text)
	}
	return total
}

func countWords(text string) (n int) {
	for range strings.FieldsSeq(text) {
		n++
	}
	return n
}
