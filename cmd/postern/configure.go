package main

import (
	"os"
	"strconv"

	"postern/shared/agents"
	"postern/shared/settings"
)

// configure reads the settings from all their layers, makes the models that they
// name, and reads the agents.
func configure(flags map[string]settings.Entry, makeModels func(settings.Settings) (agents.Models, error)) (s settings.Settings, file *agents.File, models agents.Models, err error) {
	layers := []settings.Layer{settings.Entries(flags), settings.Environment(os.Getenv)}
	for _, name := range []string{".env.local", ".env"} {
		values, err := readDotenv(name)
		if err != nil {
			return s, nil, nil, err
		}
		layers = append(layers, settings.Dotenv(name, values))
	}
	if s, err = settings.Parse(layers...); err != nil {
		return s, nil, nil, err
	}
	if models, err = makeModels(s); err != nil {
		return s, nil, nil, err
	}
	if file, err = models.Load(s.AgentsFile, s.Model); err != nil {
		return s, nil, nil, err
	}
	if err = openModels(models, file); err != nil {
		return s, nil, nil, err
	}
	s, err = settings.Parse(append(layers, deployLayer(file.Deploy))...)
	s.Warnings = append(s.Warnings, file.Warnings...)
	return s, file, models, err
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
