package offline_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"postern/shared/model"
	"postern/shared/model/offline"
)

// Each row is a rule of the paper, shown by what our script makes of it.
func TestReply(t *testing.T) {
	t.Parallel()
	const noWords = "I find no words to go by. What are you working on?"
	tests := []struct {
		name  string
		turns []string // the person's; the reply to the last is compared
		want  string
	}{
		{"nobody has spoken: a greeting", nil,
			"I am ELIZA, a small program that answers with your own words. What are you working on?"},
		{"a message's own words come back", []string{"I need a summary of the report"},
			"What would a summary of the report give you?"},

		{"rank beats order: need, though can comes first", []string{"Can it be that I need tea"},
			"What would tea give you?"},
		{"rank beats order: need, though can comes last", []string{"I need what tea can do"},
			"What would what tea can do give you?"},
		{"of equal ranks the first found wins", []string{"Tea broke because I slept"},
			"What changed just before Tea broke because you slept?"},
		{"a keyword whose patterns all fail gives way to the next", []string{"It may be that I sleep"},
			"You sleep. What would you like to come of it?"},

		{"I and my become you and your", []string{"If I lose my keys"},
			"What else would follow if you lose your keys?"},
		{"you and your become I and my", []string{"If you lose your keys"},
			"What else would follow if I lose my keys?"},
		{"myself becomes yourself", []string{"If I ask myself"},
			"What else would follow if you ask yourself?"},
		{"a misspelling is put right", []string{"It works if i dont look"},
			"What else would follow if you don't look?"},
		{"a typographic apostrophe is an apostrophe", []string{"I can’t find the file"},
			"What would change if you could find the file?"},
		{"a known word loses its capital, others keep theirs", []string{"WHAT happened in Paris?"},
			"You ask what happened in Paris. What do you know about it already?"},

		{"0 is any number of words, as few as will do", []string{"I know I need tea and need cake"},
			"What would tea and need cake give you?"},
		{"a pattern's last word is the clause's last", []string{"In need of help"},
			"What would of help change?"},
		{"a pattern may end in a word", []string{"Somehow help"},
			"What is it that somebody should help?"},
		{"1 is just one word, so nothing doesn't fit", []string{"I need"},
			"You need. What would you like to come of it?"},
		{"one of several words", []string{"I believe in tests"},
			"On what grounds do you believe in tests?"},
		{"a group: boss is a person", []string{"My boss is away"},
			"What does it mean for you that your boss is away?"},
		{"not of the group: goat is none", []string{"My goat is away"},
			"Your goat is away: what should become of it?"},

		{"replies rotate: the second", []string{"I need tea", "I need cake"},
			"Who else could use cake?"},
		{"replies rotate: the third", []string{"I need tea", "I need cake", "I need jam"},
			"Which part of jam comes first?"},
		{"replies rotate: the first again", []string{"I need tea", "I need cake", "I need jam", "I need rest"},
			"What would rest give you?"},
		{"each rule has a rotation of its own", []string{"I need tea", "I need to eat"},
			"What is the first step to eat?"},

		{"a link: everybody answers as always does", []string{"Everybody sleeps"},
			"What led you to conclude that everybody sleeps?"},
		{"a link uses the rotation of the rule linked to", []string{"It always rains", "Everybody sleeps"},
			"When was it last so that everybody sleeps?"},
		{"newkey: the list is no command, so the next keyword", []string{"I lost the list of names"},
			"You lost the list of names. What would you like to come of it?"},
		{"newkey without a next keyword: NONE", []string{"The list is long"},
			"Let us stay with this: The list is long. What should come of it?"},
		{"pre: I'd like is put as I want", []string{"I'd like a map of Rome"},
			"What would a map of Rome give you?"},
		{"pre: I'm is put as I am", []string{"I'm late"},
			"What follows from your being late?"},
		{"pre: please is taken out of a request", []string{"Could you please bring tea"},
			"What would you do next if I could bring tea?"},

		{"a clause before the keyword's is dropped", []string{"Good day to all, I need tea"},
			"What would tea give you?"},
		{"a clause after the keyword's is dropped", []string{"I sleep. I need tea"},
			"You sleep. What would you like to come of it?"},
		{"but delimits", []string{"It rains but I need tea"},
			"What would tea give you?"},
		{"but delimits behind a keyword", []string{"I need tea but nobody comes"},
			"What would tea give you?"},
		{"a quotation mark hides no delimiter", []string{`I said "tea." Nobody came`},
			"You said tea. What would you like to come of it?"},
		{"a point inside a word doesn't delimit", []string{"I need agents.yaml and 3.14"},
			"What would agents.yaml and 3.14 give you?"},

		{"NONE heeds the longest clause", []string{"Well, zebras are striped, so."},
			"Let us stay with this: zebras are striped. What should come of it?"},
		{"NONE rotates", []string{"ping", "pong"},
			"Pong: what about it matters most to you?"},
		{"hello", []string{"Hello there!"},
			"Hello, and welcome. What are you working on?"},
		{"hello doesn't hide what follows", []string{"Hello, I need tea"},
			"What would tea give you?"},
		{"no words at all", []string{""}, noWords},
		{"nothing but punctuation", []string{" ?! ... \n"}, noWords},
		{"another script", []string{"我需要一份报告。"},
			"Let us stay with this: 我需要一份报告. What should come of it?"},
		{"bytes that aren't UTF-8", []string{"\xff\xfe I need \xf0\x9f tea"},
			"What would \uFFFD tea give you?"},

		{"memory: the fourth turn, having no keyword, recalls my", []string{"My cat sleeps", "ping", "ping", "pong"},
			"Let us go back to this: your cat sleeps. Has anything changed since?"},
		{"memory: the last word chooses how", []string{"My cat purrs", "ping", "ping", "pong"},
			"And what of this, said before: your cat purrs?"},
		{"memory: the third turn doesn't recall", []string{"My cat sleeps", "ping", "pong"},
			"Pong: what about it matters most to you?"},
		{"memory: a keyword comes first", []string{"My cat sleeps", "ping", "ping", "I need tea"},
			"What would tea give you?"},
		{"memory: oldest first", []string{"My cat sleeps", "My dog barks", "ping", "pong"},
			"Let us go back to this: your cat sleeps. Has anything changed since?"},
		{"memory: what is recalled is forgotten", []string{"My cat sleeps", "ping", "ping", "ping", "ping", "ping", "ping", "pong"},
			"Pong: what about it matters most to you?"},
		{"memory: only of what my ranked highest in", []string{"I need my cat", "ping", "ping", "pong"},
			"Say more about this: pong."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, whole(t, request(tt.turns...))); diff != "" {
				t.Errorf("reply to %q (-want +got):\n%s", tt.turns, diff)
			}
		})
	}
}

// Whatever the rule and its turn in the rotation, a reply repeats what the
// message was about.
func TestReplyHeedsTheMessage(t *testing.T) {
	t.Parallel()
	for _, message := range []string{
		"quagga", "Quaggas graze. The quagga is gone", "I need a quagga", "I want to see the quagga",
		"I want you to draw a quagga", "The zoo needs a quagga", "I'd like a quagga", "What is a quagga?",
		"How do I feed a quagga?", "When did the quagga die out?", "Can you draw a quagga?", "May I ride the quagga?",
		"Could you please find the quagga", "Summarise the quagga", "I write about the quagga", "You should find the quagga",
		"I can't see the quagga", "I don't see the quagga", "Don't feed the quagga", "The quagga crashed",
		"There is an error in the quagga", "If the quagga comes back", "It rains because the quagga left",
		"The quagga always wins", "Everyone loves the quagga", "My boss rides a quagga", "My quagga", "I'm a quagga",
		"You're a quagga", "I am trying to ride a quagga", "I think of the quagga", "I rode a quagga",
		"Do you know the quagga?", "Are you a quagga?", "You ride a quagga",
	} {
		for turns := 1; turns <= 3; turns++ {
			got := whole(t, request(slices.Repeat([]string{message}, turns)...))
			if !strings.Contains(strings.ToLower(got), "quagga") {
				t.Errorf("reply %d to %q is %q, which doesn't heed it", turns, message, got)
			}
		}
	}
}

func TestSameRequestSameAnswer(t *testing.T) {
	t.Parallel()
	llm := offline.New()
	asked := request("My cat sleeps", "I need tea", "ping", "pong")
	want := collect(t, llm.Stream(t.Context(), asked))
	collect(t, llm.Stream(t.Context(), request("I need cake"))) // leaves no trace
	if diff := cmp.Diff(want, collect(t, llm.Stream(t.Context(), asked))); diff != "" {
		t.Errorf("second answer differs (-first +second):\n%s", diff)
	}
}

// Only the person's turns count: what the assistant and the tools said may have
// come from another model.
func TestOthersTurnsAreSkipped(t *testing.T) {
	t.Parallel()
	got := whole(t, model.Request{Messages: []model.Message{
		{Role: model.User, Text: "I need tea"},
		{Role: model.Assistant, ToolCalls: []model.ToolCall{{ID: "1", Name: "kettle"}}},
		{Role: model.ToolRole, Text: "I need cake", ToolCallID: "1"},
	}})
	if want := "What would tea give you?"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	text := func(s string) model.Event { return model.Event{Text: s} }
	stop := func(reason model.StopReason, in, out int) model.Event {
		return model.Event{Stop: reason, Usage: model.Usage{InputTokens: in, OutputTokens: out}}
	}
	tests := []struct {
		name   string
		change func(*model.Request) // of "I need tea", answered by "What would tea give you?"
		want   []model.Event
	}{
		{"a word each, then the stop", func(r *model.Request) {},
			[]model.Event{text("What "), text("would "), text("tea "), text("give "), text("you?"), stop(model.EndTurn, 3, 5)}},
		{"cut at the bound", func(r *model.Request) { r.MaxTokens = 2 },
			[]model.Event{text("What "), text("would "), stop(model.MaxTokens, 3, 2)}},
		{"a bound of the answer's own length cuts nothing", func(r *model.Request) { r.MaxTokens = 5 },
			[]model.Event{text("What "), text("would "), text("tea "), text("give "), text("you?"), stop(model.EndTurn, 3, 5)}},
		{"ended by a stop sequence", func(r *model.Request) { r.StopAt = []string{"give", "", "\x74\xff"} },
			[]model.Event{text("What "), text("would "), text("tea "), stop(model.EndTurn, 3, 3)}},
		{"ended by a stop sequence before it begins", func(r *model.Request) { r.StopAt = []string{"W"} },
			[]model.Event{stop(model.EndTurn, 3, 0)}},
		{"usage counts the system prompt and every turn", func(r *model.Request) {
			r.System, r.MaxTokens = "You are\tbrief.", 1
			r.Messages = append([]model.Message{{Role: model.Assistant, Text: "Good morning"}}, r.Messages...)
		},
			[]model.Event{text("What "), stop(model.MaxTokens, 8, 1)}},
		{"asked for by name", func(r *model.Request) { r.Model, r.MaxTokens = offline.Name, 1 },
			[]model.Event{text("What "), stop(model.MaxTokens, 3, 1)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req := request("I need tea")
			tt.change(&req)
			if diff := cmp.Diff(tt.want, collect(t, offline.New().Stream(t.Context(), req))); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnotherModelIsRefused(t *testing.T) {
	t.Parallel()
	req := request("I need tea")
	req.Model = "gpt-4o-mini"
	calls := 0
	for event, err := range offline.New().Stream(t.Context(), req) {
		calls++
		if !errors.Is(err, model.ErrUnavailable) {
			t.Errorf("got %+v, %v, want ErrUnavailable", event, err)
		}
	}
	if calls != 1 {
		t.Errorf("%d events, want the error alone", calls)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	for _, words := range []int{0, 1, 3} {
		t.Run(fmt.Sprintf("after %d words", words), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if words == 0 {
				cancel()
			}
			read, errs := 0, []error(nil)
			for event, err := range offline.New().Stream(ctx, request("I need tea")) {
				if err != nil {
					errs = append(errs, err)
					continue
				}
				if event.Text != "" {
					read++
				}
				if read == words {
					cancel()
				}
			}
			if read != words || len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
				t.Errorf("read %d words and errors %v, want %d words and one context.Canceled", read, errs, words)
			}
		})
	}
}

func TestBreakingOutStops(t *testing.T) {
	t.Parallel()
	for range offline.New().Stream(t.Context(), request("I need tea")) {
		break // a stream that yields again panics
	}
}

func TestWordsPastTheBoundAreNotRead(t *testing.T) {
	t.Parallel()
	got := whole(t, request("I need"+strings.Repeat(" x", 1998)+" tea"))
	if n := strings.Count(got, "x"); n != 1998 || strings.Contains(got, "tea") {
		t.Errorf("the answer has %d of the 1998 words, and tea: %t", n, strings.Contains(got, "tea"))
	}
}

func FuzzStream(f *testing.F) {
	for _, seed := range []string{
		"", " ", "but", "I need a summary of the report", "My cat, and yours.", "could you please", "=can newkey pre 1 2",
		"\xff\xfe\x00", "'’\"", "🎉👩‍💻", "You're I'm", "what\u2028is\u00a0it", "ŉ ß ſ İ", "i need " + strings.Repeat("you are ", 50),
	} {
		f.Add(seed, "I need tea", 0)
		f.Add("My cat sleeps", seed, 3)
	}
	f.Fuzz(func(t *testing.T, first, last string, bound int) {
		req := request(first, last, last, last)
		req.MaxTokens = bound
		events := collect(t, offline.New().Stream(t.Context(), req))
		var answer strings.Builder
		for i, event := range events {
			if stops := event.Stop != ""; stops != (i == len(events)-1) {
				t.Fatalf("event %d of %d is %+v: the stop comes last and once", i, len(events), event)
			}
			if event.Stop == "" && len(strings.Fields(event.Text)) != 1 {
				t.Fatalf("piece %q is not one word", event.Text)
			}
			answer.WriteString(event.Text)
		}
		if answer.Len() == 0 || !utf8.ValidString(answer.String()) {
			t.Fatalf("answer %q is empty or not UTF-8", answer.String())
		}
		if n := events[len(events)-1].Usage.OutputTokens; n != len(events)-1 || bound > 0 && n > bound {
			t.Fatalf("usage says %d words of %d, bound %d", n, len(events)-1, bound)
		}
	})
}

// barren has many keywords of which none finds its pattern: each is tried on
// all of the message.
const barren = "the test can a list which this plan when will "

// A keyword found again isn't tried again, or long messages would cost the
// square of their length. Every try allocates, so tries can be counted.
func TestKeywordIsTriedOnce(t *testing.T) { // not parallel: AllocsPerRun counts everybody's
	llm := offline.New()
	cost := func(times int) float64 {
		req := request(strings.Repeat(barren, times))
		req.MaxTokens = 1
		return testing.AllocsPerRun(10, func() {
			for range llm.Stream(t.Context(), req) {
			}
		})
	}
	if once, often := cost(2), cost(200); often > 2*once {
		t.Errorf("%.0f allocations for a message said 200 times, %.0f for twice: they grow with its length", often, once)
	}
}

// The time for a message grows with its words, not faster, and no more past
// the words that are read.
func BenchmarkStream(b *testing.B) {
	llm := offline.New()
	for _, words := range []int{10, 100, 1000, 2000, 50_000} {
		req := request(strings.Repeat(barren, words/10))
		b.Run(fmt.Sprintf("words=%d", words), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for range llm.Stream(b.Context(), req) {
					break // at the first word
				}
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		offline.New()
	}
}

// request is a conversation with these turns of the person's.
func request(turns ...string) model.Request {
	var req model.Request
	for _, turn := range turns {
		req.Messages = append(req.Messages, model.Message{Role: model.User, Text: turn})
	}
	return req
}

func whole(t *testing.T, req model.Request) string {
	t.Helper()
	var answer strings.Builder
	for _, event := range collect(t, offline.New().Stream(t.Context(), req)) {
		answer.WriteString(event.Text)
	}
	return answer.String()
}

func collect(t *testing.T, stream iter.Seq2[model.Event, error]) (events []model.Event) {
	t.Helper()
	for event, err := range stream {
		if err != nil {
			t.Fatalf("stream: %v", err)
		}
		events = append(events, event)
	}
	return events
}
