package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/keys"
	"postern/shared/route"
)

func keysCommand() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Create, list, change and take back issued keys",
		Long: `A key for each client: what it may use, how often, from where, until when.
What is said here holds within 5 seconds, in a server that is running too.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	p.flags(cmd)
	cmd.AddCommand(p.createCommand(), p.listCommand(), p.showCommand(), p.updateCommand(), p.rotateCommand(), p.revokeCommand())
	return cmd
}

// key is a key as the API answers it.
type key struct {
	keys.Key
	LastUsedAt *time.Time `json:"last_used_at"`
	Token      string     `json:"key"` // of a new one alone
}

// state is what becomes of who shows the key now.
func (k key) state(now time.Time) string {
	if reason, refused := errors.AsType[auth.Reason](k.State(now)); refused {
		return string(reason)
	}
	return "active"
}

// String names a key in a question.
func (k key) String() string { return fmt.Sprintf("%s (%s)", clean(k.ID), clean(k.Name)) }

func (p *place) createCommand() *cobra.Command {
	var asJSON bool
	f := fields{}
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a key, and show it this once",
		Long: `Create a key. Nobody can show it again: only its digest is kept.
Standard output has the key and nothing else; its record is on standard error.

What isn't given is no bound: all agents, from everywhere, for ever; requests as
API_RATE_LIMIT says. Several values are separated by commas, or given one by one.`,
		Example: `  KEY=$(postern keys create --name reports --scope agents:read,chat --expires 90d)`,
		Args:    noArguments,
		RunE: p.withNew(func(c *client, _ []string) error {
			created, err := c.call(http.MethodPost, "/keys", f, "")
			if err != nil {
				return err
			}
			return c.showNew(created, asJSON)
		}),
	}
	f.flags(cmd)
	jsonFlag(cmd, &asJSON)
	cmd.MarkFlagRequired("name")
	cmd.MarkFlagRequired("scope")
	return cmd
}

func (p *place) listCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List all keys",
		Example: `  postern keys list --json | jq '.keys[] | select(.last_used_at == null)'`,
		Args:    noArguments,
		RunE: p.with(func(c *client, _ []string) error {
			all := []json.RawMessage{}
			rows := [][]string{{"ID", "NAME", "STATE", "SCOPES", "AGENTS", "EXPIRES_AT", "LAST_USED_AT"}}
			for entry, err := range c.list("/keys?limit=100", "keys", "") {
				var k key
				if err == nil && json.Unmarshal(entry, &k) != nil {
					err = c.foreign()
				}
				if err != nil {
					return err
				}
				all = append(all, entry)
				rows = append(rows, []string{k.ID, short(k.Name), k.state(time.Now()), scopes(k.Scopes),
					short(strings.Join(k.Agents, ",")), moment(k.ExpiresAt), moment(k.LastUsedAt)})
			}
			if !asJSON {
				return columns(os.Stdout, rows...)
			}
			text, err := api.Encode(struct {
				Keys []json.RawMessage `json:"keys"`
				Next *string           `json:"next"`
			}{Keys: all})
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(text)
			return err
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *place) showCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show all there is to know about a key",
		Example: `  postern keys show 4fGh7Kl0PqRs`,
		Args:    oneKey,
		RunE: p.with(func(c *client, args []string) error {
			found, err := c.call(http.MethodGet, pathOf(args[0]), nil, "")
			if err != nil {
				return err
			}
			return c.show(os.Stdout, found, asJSON)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *place) updateCommand() *cobra.Command {
	var asJSON, yes, disable, enable bool
	var cleared []string
	f := fields{}
	cmd := &cobra.Command{
		Use:   "update ID",
		Short: "Change what is given, and leave the rest as it is",
		Long: `Change a key. A list that is given takes the place of the one before, and
--clear takes a bound away: "--clear agents" is the key for all agents.
Whoever changes a key that somebody else has just changed is told so. --disable
alone holds in any case.`,
		Example: `  postern keys update 4fGh7Kl0PqRs --rate-limit 500 --clear expires_at`,
		Args:    oneKey,
		RunE: p.with(func(c *client, args []string) error {
			if err := f.complete(cleared, disable, enable); err != nil {
				return err
			}
			k, tag, err := c.find(args[0])
			if err != nil {
				return err
			}
			if disable {
				if err := confirm(fmt.Sprintf("Disable key %s? Whoever uses it is refused.", k), yes); err != nil {
					return err
				}
				if len(f) == 1 {
					tag = "" // whoever changes it at the same time
				}
			}
			updated, err := c.call(http.MethodPatch, pathOf(args[0]), f, tag)
			if err != nil {
				return err
			}
			return c.show(os.Stdout, updated, asJSON)
		}),
	}
	f.flags(cmd)
	cmd.Flags().StringSliceVar(&cleared, "clear", nil, "take away this `field`: "+strings.Join(clearable, ", "))
	cmd.Flags().BoolVar(&disable, "disable", false, "refuse the key until it is enabled")
	cmd.Flags().BoolVar(&enable, "enable", false, "accept it again")
	cmd.RegisterFlagCompletionFunc("clear", cobra.FixedCompletions(clearable, cobra.ShellCompDirectiveNoFileComp))
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *place) rotateCommand() *cobra.Command {
	var asJSON, yes bool
	var grace string
	cmd := &cobra.Command{
		Use:   "rotate ID",
		Short: "Put a new key in the place of the old one, and show it this once",
		Long: `Make a new key of the same id. The old one works until its grace has ended,
24h if nothing is said, so there is time to hand out the new one; those from
before other rotations keep their own ends. --grace 0 ends all of them at once,
after a leak.
Standard output has the key and nothing else; its record is on standard error.`,
		Example: `  KEY=$(postern keys rotate 4fGh7Kl0PqRs --grace 7d)`,
		Args:    oneKey,
		RunE: p.with(func(c *client, args []string) error {
			k, tag, err := c.find(args[0])
			if err != nil {
				return err
			}
			body := map[string]string{}
			if grace != "" {
				body["grace"] = grace
			}
			if ends := k.endsAtOnce(grace, time.Now()); ends != "" {
				if err := confirm(fmt.Sprintf("Rotate key %s? %s", k, ends), yes); err != nil {
					return err
				}
			}
			rotated, err := c.call(http.MethodPost, pathOf(args[0])+"/rotate", body, tag)
			if err != nil {
				return err
			}
			return c.showNew(rotated, asJSON)
		}),
	}
	cmd.Flags().StringVar(&grace, "grace", "", "how `long` the old key works: 0, 90s, 15m, 24h, at most 30d")
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// endsAtOnce says what a rotation of k makes useless without warning.
func (k key) endsAtOnce(grace string, now time.Time) string {
	switch {
	case grace == "" || strings.Trim(grace, "0smhd") != "":
		return ""
	case k.PreviousExpiresAt != nil && now.Before(*k.PreviousExpiresAt):
		return "Without grace the old one stops working at once, and so do those before it."
	}
	return "Without grace the old one stops working at once."
}

func (p *place) revokeCommand() *cobra.Command {
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "Take a key back for good",
		Example: `  postern keys revoke 4fGh7Kl0PqRs`,
		Args:    oneKey,
		RunE: p.with(func(c *client, args []string) error {
			k, _, err := c.find(args[0])
			if err != nil {
				return err
			}
			if err := confirm(fmt.Sprintf("Revoke key %s? That is for good.", k), yes); err != nil {
				return err
			}
			if _, err := c.call(http.MethodDelete, pathOf(args[0]), nil, ""); err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "revoked %s\n", k)
			if !asJSON {
				return nil
			}
			left, err := c.call(http.MethodGet, pathOf(args[0]), nil, "")
			if err != nil {
				return err
			}
			return jsonLine(os.Stdout, left.body)
		}),
	}
	jsonFlag(cmd, &asJSON)
	yesFlag(cmd, &yes)
	return cmd
}

// find reads a key and its version, so that what is decided on it can be refused
// if it is another one by then.
func (c *client) find(id string) (key, string, error) {
	found, err := c.call(http.MethodGet, pathOf(id), nil, "")
	if err != nil {
		return key{}, "", err
	}
	k, err := c.key(found)
	if err == nil && found.tag == "" {
		err = c.foreign()
	}
	return k, found.tag, err
}

// key reads a key's record.
func (c *client) key(a answer) (key, error) {
	var k key
	if json.Unmarshal(a.body, &k) != nil || k.ID == "" {
		return key{}, c.foreign()
	}
	return k, nil
}

// show writes a key's record, under the API's names.
func (c *client) show(w *os.File, a answer, asJSON bool) error {
	if asJSON {
		return jsonLine(w, a.body)
	}
	k, err := c.key(a)
	if err != nil {
		return err
	}
	return columns(w,
		[]string{"id", k.ID},
		[]string{"name", k.Name},
		[]string{"scopes", scopes(k.Scopes)},
		[]string{"agents", strings.Join(k.Agents, ",")},
		[]string{"allowed_ips", strings.Join(k.AllowedIPs, ",")},
		[]string{"rate_limit", number(k.RateLimit)},
		[]string{"tokens_per_day", number(k.TokensPerDay)},
		[]string{"expires_at", moment(k.ExpiresAt)},
		[]string{"disabled", strconv.FormatBool(k.Disabled)},
		[]string{"created_at", moment(&k.CreatedAt)},
		[]string{"created_by", k.CreatedBy},
		[]string{"last_used_at", moment(k.LastUsedAt)},
		[]string{"previous_expires_at", moment(k.PreviousExpiresAt)},
		[]string{"revoked_at", moment(k.RevokedAt)},
	)
}

// showNew shows a new key, which nobody else ever will.
func (c *client) showNew(a answer, asJSON bool) error {
	k, err := c.key(a)
	switch {
	case err != nil:
		return err
	case k.Token == "":
		return c.foreign()
	case asJSON:
		err = jsonLine(os.Stdout, a.body)
	default:
		c.show(os.Stderr, a, false)
		fmt.Fprintln(os.Stderr, "The key, shown this once:")
		_, err = fmt.Println(clean(k.Token))
	}
	if err != nil {
		return fmt.Errorf("the new key of %s was not shown, and can't be again (%w): rotate it", k, err)
	}
	return nil
}

// oneKey is a key's id as the only argument. A whole key in its place is not
// repeated.
func oneKey(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) != 1:
		return fmt.Errorf("`%s` takes the id of one key; `postern keys list` shows them", cmd.CommandPath())
	case strings.HasPrefix(args[0], "postern_"):
		return errors.New("this is a key itself, and now stands in the shell's history: its id is what is between its two _")
	case args[0] == "":
		return errors.New("the id is empty; `postern keys list` shows those there are")
	}
	return nil
}

func pathOf(id string) string { return "/keys/" + url.PathEscape(id) }

func scopes(list []route.Scope) string {
	var names []string
	for _, s := range list {
		names = append(names, string(s))
	}
	return strings.Join(names, ",")
}

func number(n *int) string {
	if n == nil {
		return ""
	}
	return strconv.Itoa(*n)
}

func jsonFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print JSON, the API's where it is the API's answer")
}

func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVar(yes, "yes", false, "don't ask")
}
