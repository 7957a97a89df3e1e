"""A stand-in for the Hugging Face hub: the answers that huggingface_hub asks for, from memory, on this machine."""
import base64
import hashlib
import json
import re

from helpers import Handler, answering


class Hub:
    """Used as `with Hub() as hub`. `files` is {"owner/name": {file: bytes}}; `requests` what was asked, in order.

    sizes: what is said of a file's size, by its name, where that is not its own; refuse: an HTTP status for everything;
    private: what is said of every repository.
    """

    def __init__(self):
        self.files, self.objects, self.requests, self.tokens = {}, {}, [], set()
        self.sizes, self.refuse, self.private = {}, None, False

    def __enter__(self):
        hub = self

        class Answers(Handler):
            def answer(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def serve(self):
                path = self.path.partition("?")[0]
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.requests.append(f"{self.command} {path}")
                hub.tokens.add(self.headers.get("Authorization"))
                if hub.refuse:
                    return self.answer(hub.refuse, b'{"error": "refused"}')
                found = hub.answer(self.command, path, body)
                status, body, headers = found if isinstance(found, tuple) else (200, json.dumps(found).encode(), {})
                self.answer(status, body, **headers)

            do_GET = do_HEAD = do_POST = do_PUT = serve

        self.server = answering(Answers)
        self.url = self.server.__enter__()
        return self

    def __exit__(self, *error):
        self.server.__exit__(*error)

    def commit(self, name):
        """The name of a repository's last commit, by its content."""
        return hashlib.sha1(repr(sorted(self.files[name].items())).encode()).hexdigest()

    def answer(self, method, path, body):
        """-> what becomes JSON, or (status, bytes, headers)"""
        missing = 404, b'{"error": "not found"}', {"X_Error_Code": "RepoNotFound"}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.files.setdefault(name, {})
            return {"url": f"{self.url}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/objects/(\w+)", path):
            self.objects[found[1]] = body
            return 200, b"", {}
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return {"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.url}/objects/{one['oid']}"}}}
                for one in json.loads(body)["objects"]]}
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(preupload|commit|revision)/main)?", path):
            name, action = found.groups()
            if name not in self.files:
                return missing
            return self.of_repository(name, action, body)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/\w+/(.+)", path):
            name, file = found.groups()
            if name not in self.files:
                return missing
            if file not in self.files[name]:
                return 404, b"", {"X_Error_Code": "EntryNotFound", "X_Repo_Commit": self.commit(name)}
            data = self.files[name][file]
            return 200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X_Repo_Commit": self.commit(name)}
        return 404, b"", {}

    def of_repository(self, name, action, body):
        files = self.files[name]
        if action == "preupload":
            return {"files": [{"path": one["path"], "shouldIgnore": False,
                               "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular"}
                              for one in json.loads(body)["files"]]}
        if action == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
            commit = self.commit(name)
            return {"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{name}/commit/{commit}"}
        return {"id": name, "sha": self.commit(name), "private": self.private, "tags": [], "downloads": 0, "likes": 0,
                "siblings": [{"rfilename": file, "size": self.sizes.get(file, len(data))}
                             for file, data in files.items()]}
