package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/joho/godotenv"

	"postern/shared/agents"
	"postern/shared/settings"
)

// configure reads the settings from all their layers, and the agents.
func configure(flags map[string]settings.Entry, models agents.Models) (settings.Settings, *agents.File, error) {
	layers := []settings.Layer{settings.Entries(flags), settings.Environment(os.Getenv)}
	for _, name := range []string{".env.local", ".env"} {
		values, err := readDotenv(name)
		if err != nil {
			return settings.Settings{}, nil, err
		}
		layers = append(layers, settings.Dotenv(name, values))
	}
	s, err := settings.Parse(layers...)
	if err != nil {
		return settings.Settings{}, nil, err
	}
	file, err := models.Load(s.AgentsFile, s.Model)
	if err != nil {
		return settings.Settings{}, nil, err
	}
	s, err = settings.Parse(append(layers, deployLayer(file.Deploy))...)
	return s, file, err
}

// readDotenv reads a file of variables; one that doesn't exist has none. An
// error never has the library's text, which repeats the line at fault: a secret,
// as likely as not. A dollar sign outside single quotes is refused, where the
// library would cut out what it takes for a variable, and leave another token
// than the one its owner wrote.
func readDotenv(name string) (map[string]string, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s takes lines of NAME=value; remove it if it isn't Postern's", err, name)
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	values, err := godotenv.Unmarshal(text)
	for i, line := range strings.Split(text, "\n") {
		_, value, _ := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		switch _, fault := godotenv.Unmarshal(line); {
		case err != nil && fault != nil:
			return nil, fmt.Errorf("%s:%d: the line is neither empty, a # comment nor NAME=value; values with spaces or # need quotes", name, i+1)
		case strings.Contains(value, "$") && !strings.HasPrefix(value, "'") && !strings.HasPrefix(strings.TrimSpace(line), "#"):
			return nil, fmt.Errorf("%s:%d: a $ would be taken for a variable; put the value in single quotes", name, i+1)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: a quote is opened and not closed", name)
	}
	return values, nil
}

// deployLayer is the deploy.api block of agents.yaml as settings.
func deployLayer(d agents.Deploy) settings.Layer {
	entries := map[string]settings.Entry{}
	if d.Host.IsSet() {
		entries["API_HOST"] = settings.Entry{Text: d.Host.V, Origin: d.Host.Where}
	}
	if d.Port.IsSet() {
		entries["API_PORT"] = settings.Entry{Text: strconv.Itoa(d.Port.V), Origin: d.Port.Where}
	}
	if d.AuthEnabled.IsSet() {
		word := map[bool]string{true: "enabled", false: "disabled"}[d.AuthEnabled.V]
		entries["API_AUTH"] = settings.Entry{Text: word, Origin: d.AuthEnabled.Where}
	}
	if d.CORSEnabled.V {
		entries["CORS_ORIGINS"] = settings.Entry{Text: "*", Origin: d.CORSEnabled.Where,
			Warning: d.CORSEnabled.Where + ": pages of every origin may call the API; CORS_ORIGINS lists those that need it"}
	}
	if !d.AuthToken.IsSet() {
		return settings.Entries(entries)
	}
	entries["API_TOKEN"] = settings.Entry{Text: d.AuthToken.V.Reveal(), Origin: d.AuthToken.Where}
	return settings.Entries(entries, d.AuthToken.Where+": a token in a file that is shared is no secret; set API_TOKEN in .env instead")
}
