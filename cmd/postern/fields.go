package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/shared/route"
)

// fields is what flags say of a key: a body of POST and PATCH, which has what was
// given and nothing else. The API says whether a value is right.
type fields map[string]any

// clearable is the fields that a key can be without.
var clearable = []string{"agents", "allowed_ips", "rate_limit", "tokens_per_day", "expires_at"}

// flags adds a flag for each field.
func (f fields) flags(cmd *cobra.Command) {
	add := func(flag, field, usage string, read func(text string) (any, error)) {
		cmd.Flags().Func(flag, usage, func(text string) (err error) {
			f[field], err = read(text)
			return err
		})
	}
	list := func(flag, field, usage string) {
		var all []string
		add(flag, field, usage, func(text string) (any, error) {
			for entry := range strings.SplitSeq(text, ",") {
				all = append(all, strings.TrimSpace(entry))
			}
			return all, nil
		})
	}
	add("name", "name", "its `name`, for people", func(text string) (any, error) { return text, nil })
	list("scope", "scopes", "what it may do, each a `scope`: agents:read, chat, admin")
	list("agent", "agents", "the only agents that it may use, each a `name`")
	list("allow-ip", "allowed_ips", "the only places that it may be used from, each an `address` or CIDR block")
	add("rate-limit", "rate_limit", "the `number` of requests that it may make in an hour; 0: any number", wholeNumber)
	add("tokens-per-day", "tokens_per_day", "the `number` of a model's tokens that it may use up in a day", wholeNumber)
	add("expires", "expires_at", "the `time` when it ends: 2027-01-31T12:00:00Z, or from now on 12h, 30d",
		func(text string) (any, error) { return expiry(text, time.Now()) })
	cmd.RegisterFlagCompletionFunc("scope", cobra.FixedCompletions(
		[]string{string(route.AgentsRead), string(route.Chat), string(route.Admin)}, cobra.ShellCompDirectiveNoFileComp))
}

// complete adds what the flags of an update say beside the fields' own.
func (f fields) complete(cleared []string, disable, enable bool) error {
	if disable && enable {
		return errors.New("--disable and --enable contradict each other")
	}
	if disable || enable {
		f["disabled"] = disable
	}
	for _, name := range cleared {
		if !slices.Contains(clearable, name) {
			return fmt.Errorf("--clear: a key can't be without %.64q; it takes %s", name, strings.Join(clearable, ", "))
		}
		if value, given := f[name]; given && value != nil {
			return fmt.Errorf("--clear %s contradicts the flag that sets it", name)
		}
		f[name] = nil
	}
	if len(f) == 0 {
		return errors.New("nothing is to be changed; `postern keys update --help` lists the flags")
	}
	return nil
}

func wholeNumber(text string) (any, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil, errors.New("it takes a whole number")
	}
	return n, nil
}

// expiry is a time, or as long from now as a duration says.
func expiry(text string, now time.Time) (string, error) {
	var t time.Time
	if t.UnmarshalText([]byte(text)) == nil {
		return text, nil
	}
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	digits := strings.TrimRight(text, "smhd")
	unit, known := units[text[len(digits):]]
	n, err := strconv.ParseUint(digits, 10, 31)
	const longest = 100 * 365 * 24 * time.Hour
	if !known || err != nil || n > uint64(longest/unit) {
		return "", errors.New("it takes a time like 2027-01-31T12:00:00Z (RFC 3339), or a duration from now on: <n>s, <n>m, <n>h or <n>d")
	}
	return now.Add(time.Duration(n) * unit).UTC().Format(time.RFC3339), nil
}
