package e2e_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"postern/shared/check"
)

// spender is a key of so few tokens a day that some chats use them up.
const spender = `{"name":"spender","scopes":["chat"],"tokens_per_day":3000}`

const chatting = `{"message":"hello"}`

// TestATokenBudget: chats of a key are answered until its tokens are spent, and
// then no more until the day ends, by whichever process and on every route that
// runs a model.
func TestATokenBudget(t *testing.T) {
	t.Parallel()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		here := start(t, nil)
		withinAnHour(t)
		key := here.side(t).spendTokens(t)
		here.end(syscall.SIGTERM)
		again := startIn(t, here.dir, nil).side(t)
		again.tokensAreSpent(t, key)
		again.tokensAreReported(t, key)
	})
	t.Run("Lambda", func(t *testing.T) {
		t.Parallel()
		one := stack{atOnce: 3}.deploy(t)
		two := stack{beside: one}.deploy(t)
		withinAnHour(t)
		key := one.side(t).spendTokens(t)
		two.side(t).tokensAreSpent(t, key)
		two.side(t).tokensAreReported(t, key)
	})
}

// spendTokens makes a key and chats until it is refused: one chat after another,
// and several at once in the end.
func (s side) spendTokens(t *testing.T) check.Key {
	t.Helper()
	key := s.issue(t, token, spender)
	answered := 0
	for s.chatStatus(t, key) == 200 {
		if answered++; answered > 200 {
			t.Fatalf("%s: 200 chats have not used up 3000 tokens", s.name)
		}
	}
	if answered < 10 {
		t.Errorf("%s: %d chats were answered: they are charged more than they use", s.name, answered)
	}
	var late atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if s.chatStatus(t, key) != 429 {
				late.Add(1)
			}
		})
	}
	all.Wait()
	if late.Load() > 0 {
		t.Errorf("%s: %d chats were answered after the last", s.name, late.Load())
	}
	s.tokensAreSpent(t, key)
	return key
}

func (s side) chatStatus(t *testing.T, key check.Key) int {
	return s.raw(t, key.Token, send("POST", "/chat", chatting, check.Want{}))
}

// tokensAreSpent asks for a key whose day is used up, on every route that runs a
// model. Others go on.
func (s side) tokensAreSpent(t *testing.T, key check.Key) {
	t.Helper()
	for _, c := range []check.Case{
		send("POST", "/chat", chatting, check.Want{}),
		send("POST", "/chat", `{"message":"hello","stream":true}`, check.Want{}),
		send("POST", "/workflow", `{"name":"assistant","elements":["hello","hi"]}`, check.Want{}),
		send("POST", "/v1/chat/completions", `{"model":"assistant","messages":[{"role":"user","content":"hello"}]}`, check.Want{}),
	} {
		c.Want = check.Want{Status: 429, Header: map[string]string{"Retry-After": check.Any, "RateLimit": check.Any}}
		before := untilMidnight()
		answer := s.as(t, key.Token, c)
		after := untilMidnight()
		seconds, err := strconv.Atoi(answer.Header.Get("Retry-After"))
		if wait := time.Duration(seconds) * time.Second; err != nil || wait < after || wait > before+time.Second {
			t.Errorf("%s: %s: Retry-After %q of a day that ends in %s", s.name, c.Path, answer.Header.Get("Retry-After"), before)
		}
		if !strings.Contains(string(answer.Body), "Token budget exceeded") {
			t.Errorf("%s: %s: %s", s.name, c.Path, answer.Body)
		}
		isOpenAI := strings.HasPrefix(c.Path, "/v1/")
		if told := answer.Header.Get("x-should-retry") == "false"; told != (isOpenAI && seconds > 60) {
			t.Errorf("%s: %s: x-should-retry %q for %d s", s.name, c.Path, answer.Header.Get("x-should-retry"), seconds)
		}
		if got := strings.HasPrefix(string(answer.Body), `{"error":{"message":`); got != isOpenAI {
			t.Errorf("%s: %s: the body has another shape: %s", s.name, c.Path, answer.Body)
		}
	}
	s.as(t, token, send("POST", "/chat", chatting, fine))
}

func untilMidnight() time.Duration {
	now := time.Now().UTC()
	return now.Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
}

// tokensAreReported compares what the report says of a key with its budget.
func (s side) tokensAreReported(t *testing.T, key check.Key) {
	t.Helper()
	type row struct {
		Agent        string
		Refused      int
		InputTokens  int `json:"input_tokens"`
		OutputTokens int `json:"output_tokens"`
	}
	rows := decode[struct{ Usage []row }](t, s.as(t, token, get(fmt.Sprintf("/usage?key=%s", key.ID), fine))).Usage
	used, refused := 0, 0
	for _, r := range rows {
		used += r.InputTokens + r.OutputTokens
		refused += r.Refused
	}
	if used == 0 || used > 3000 || refused == 0 {
		t.Errorf("%s: %d tokens of 3000 were used and %d requests refused: %+v", s.name, used, refused, rows)
	}
}
