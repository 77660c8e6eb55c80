%% SPDX-License-Identifier: Apache-2.0

%% @private Starts a Python process of the node's: a worker, or what watches the files.
-module(hornbeam_interpreter).

%% API
-export([open/3]).

%% @doc Packets of four bytes of length and a term go to descriptor 3 and come from 4, so that
%% nothing that is printed gets among them.
-spec open(file:filename(), Arguments :: [string()], hornbeam_config:config()) -> port().
open(Python, Arguments, Config) ->
    Script = filename:join(code:priv_dir(hornbeam), "worker.py"),
    open_port({spawn_executable, Python}, [
        {args, [Script | Arguments]},
        {env, [{env_text(Name), Value =/= false andalso env_text(Value)}
               || {Name, Value} <- maps:to_list(environment(Config))]},
        {packet, 4}, nouse_stdio, binary, exit_status, hide
    ]).

%% Python takes a compiled file where the source has the same size and the same second of change,
%% which a file that is edited may have.
environment(#{reload := #{}, env := Env}) ->
    maps:merge(#{<<"PYTHONDONTWRITEBYTECODE">> => <<"1">>}, Env);
environment(#{env := Env}) ->
    Env.

env_text(Text) -> unicode:characters_to_list(Text).
