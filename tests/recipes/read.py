"""Says in JSON what the recipes tell: of each kind its jobs with their variables and scripts, and what else counts."""

import json
import pathlib
import re
import sys
import tomllib

import yaml

HERE = pathlib.Path(sys.argv[1])


def runner(name):
    with open(HERE / "gitlab" / name, "rb") as file:
        (runner,) = tomllib.load(file)["runners"]
    return runner


def gitlab(kind):
    jobs = yaml.safe_load((HERE / f"gitlab/{kind}.gitlab-ci.yml").read_text())
    settings = runner(f"{kind}-config.toml")
    assert settings["executor"] == kind
    variables = dict(variable.split("=", 1) for variable in settings["environment"])
    # The runner joins the lines of a script to one for the shell.
    return {
        "volumes": settings.get("docker", {}).get("volumes", []),
        "jobs": {name: {"variables": variables | job.get("variables", {}), "scripts": ["\n".join(job["script"])]}
                 for name, job in jobs.items()},
    }


def github():
    variables = dict(line.split("=", 1) for line in (HERE / "github/runner.env").read_text().splitlines())
    workflow = yaml.safe_load((HERE / "github/workflow.yaml").read_text())
    jobs = {}
    for name, job in workflow["jobs"].items():
        assert job["runs-on"] == "self-hosted"
        # Each step is a script of its own.
        jobs[name] = {"variables": variables, "scripts": [step["run"] for step in job["steps"] if "run" in step]}
    return {"jobs": jobs}


def jenkins():
    text = (HERE / "jenkins/Jenkinsfile").read_text()
    variables = dict(re.findall(r"^ +(\w+) = '([^']*)'$", text, re.MULTILINE))
    (axis,) = re.findall(r"name '(\w+)'\n +values (.*)", text)
    steps = re.findall(r"^ +sh '([^']*)'$", text, re.MULTILINE)
    assert len(steps) == text.count(" sh ") and text.count("{") == text.count("}") + 0, "not all was understood"
    (args,) = re.findall(r"args '([^']*)'", text)
    values = re.findall(r"'([^']*)'", axis[1])
    return {"args": args, "jobs": {value: {"variables": variables | {axis[0]: value}, "scripts": steps}
                                   for value in values}}


json.dump({"shell": gitlab("shell"), "docker": gitlab("docker"), "github": github(), "jenkins": jenkins()}, sys.stdout)
