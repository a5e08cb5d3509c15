package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/table"
)

// A day (UTC) of a caller's tokens is an item of its own, apart from the report:
//
//	partition "budget#<caller>", sort "2026-11-21", counter "tokens"
const (
	budgetPartition = "budget#"
	tokens          = "tokens"
	day             = 24 * time.Hour
)

// laps bounds how often a reservation asks anew for what is left, where others
// take of it meanwhile.
const laps = 4

var errBusy = errors.New("others took of the token budget each time that its rest was asked for")

// Budget holds callers to the tokens that they may use in a day.
//
// What a call of a model may use is reserved before it, and what it did use is
// settled after it. A reservation is one conditional Add, so never more than the
// budget is reserved, whoever shares the table; and nothing is used that was not
// reserved, as long as models keep to the bound that they are given. What is
// given back is sent once: if that is lost, or if nobody knows what a call used,
// the reservation stands until the day ends. So the budget is a ceiling, and
// errors are on its safe side.
type Budget struct {
	Table table.Table
	Log   *slog.Logger     // of what could not be settled
	Now   func() time.Time // nil: time.Now
}

// Reserve implements agents.Budget. A settlement is of the day in which its
// tokens were reserved.
func (b *Budget) Reserve(ctx context.Context, caller auth.Caller, least, most int64) (granted int64, settle func(ctx context.Context, used int64), err error) {
	now := time.Now()
	if b.Now != nil {
		now = b.Now()
	}
	today := now.UTC().Truncate(day)
	item := budgetItem{b, table.Key{Partition: budgetPartition + caller.ID, Sort: today.Format(dayFormat)}, today.Add(2 * day)}
	daily := int64(*caller.TokensPerDay)
	granted = most
	for range laps {
		used, reserved, err := item.add(ctx, granted, daily)
		if err != nil {
			return 0, nil, api.Because(api.Unavailable, err)
		}
		if reserved {
			return granted, func(ctx context.Context, used int64) { item.settle(ctx, used-granted) }, nil
		}
		left := daily - used
		if left < least {
			return 0, nil, exceeded(least, left, daily, today.Add(day).Sub(now))
		}
		granted = left
	}
	return 0, nil, api.Because(api.Unavailable, errBusy)
}

// exceeded is the refusal of a call that needs least tokens where so many are left
// of a day's: less than none, if the budget was lowered.
func exceeded(least, left, daily int64, reset time.Duration) error {
	reset = (reset + time.Second - 1).Truncate(time.Second) // who waits that long is in the next day
	cure := fmt.Sprintf("and %d of the %d of this day are left. Ask for less, or wait: the next day (UTC) begins in %d seconds.",
		max(left, 0), daily, reset/time.Second)
	if least > daily {
		cure = fmt.Sprintf("which is more than the %d of any day: ask for less, or have this key's tokens_per_day raised.", daily)
	}
	e := api.Fail(api.BudgetExceeded, "This needs %d tokens set aside, %s", least, cure)
	e.RetryAfter = reset
	return e
}

// budgetItem is a caller's day.
type budgetItem struct {
	*Budget
	key  table.Key
	ends time.Time
}

func (i budgetItem) add(ctx context.Context, by, max int64) (stands int64, added bool, err error) {
	return i.Table.Add(ctx, i.key, []table.Delta{{Counter: tokens, By: by}}, max, i.ends)
}

// settle counts what was used beyond the reservation, or gives back what wasn't.
// It is done even for a caller who has left.
func (i budgetItem) settle(ctx context.Context, difference int64) {
	if difference == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	if _, _, err := i.add(ctx, difference, table.NoMax); err != nil {
		i.Log.LogAttrs(ctx, slog.LevelWarn, "token budget not settled",
			slog.String("item", i.key.Partition+" "+i.key.Sort), slog.Int64("tokens", difference), slog.String("error", err.Error()))
	}
}
