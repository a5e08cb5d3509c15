package agents

import (
	"context"
	"errors"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
)

// Budget sets tokens aside of those that a caller may use in a day
// (Caller.TokensPerDay), before each call of a model (package usage).
type Budget interface {
	// Reserve sets aside most tokens, or all that are left if these are least at
	// least; granted says how many. The caller is one that has a budget. An error
	// is for the api's error table.
	//
	// settle, called once at most, says how many were used in the end. Until then
	// all that were granted count.
	Reserve(ctx context.Context, caller auth.Caller, least, most int64) (granted int64, settle func(ctx context.Context, used int64), err error)
}

// What a call may use at most is what it is told, and the bound of its answer. A
// token of a text is a byte of it or more.
const (
	// overhead is what a model's own template may put around a message, and once
	// around all of them, in tokens. What was seen of such is 3 to 10, and up to
	// 100 for a template with a preamble of its own.
	overhead = 64

	// defaultAnswer bounds the answers to a caller that has a budget and says no
	// bound, leastAnswer where not so much is left.
	defaultAnswer = 4096
	leastAnswer   = 256
)

var errNoBudget = errors.New("the caller has a token budget, and nothing here counts tokens")

// overBudget reports whether err is that a caller's budget has no room.
func overBudget(err error) bool { return api.CodeOf(err) == api.BudgetExceeded }

// toldBy is the most tokens that a model is told by req.
func toldBy(req model.Request) int {
	n := overhead + len(req.System)
	for _, m := range req.Messages { // no tools are offered, so texts are all there is
		n += overhead + len(m.Text)
	}
	return n
}

// reserve sets aside what req may use, and bounds its answer by that. It does
// nothing for a caller without a budget.
func (r Runner) reserve(ctx context.Context, caller auth.Caller, req *model.Request) (settle func(ctx context.Context, used int64), err error) {
	switch {
	case caller.TokensPerDay == nil:
		return func(context.Context, int64) {}, nil
	case r.Budget == nil:
		return nil, api.Because(api.Unavailable, errNoBudget)
	}
	told := toldBy(*req)
	least, most := leastAnswer, defaultAnswer
	if req.MaxTokens > 0 {
		least, most = bounded(req.MaxTokens), bounded(req.MaxTokens)
	}
	granted, settle, err := r.Budget.Reserve(ctx, caller, int64(told+least), int64(told+most))
	if err != nil {
		return nil, err
	}
	req.MaxTokens = int(granted) - told
	return settle, nil
}
