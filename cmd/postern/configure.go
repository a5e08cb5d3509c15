package main

import (
	"os"
	"strconv"

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
