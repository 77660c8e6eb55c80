%% SPDX-License-Identifier: Apache-2.0
%% @private Serves one application for as long as the node lives, for `make run' and containers:
%% `erl -s hornbeam_cli main -extra App Folder Bind Workers Python Options'.
%%
%% Arguments may be empty, which stands for the default. `Folder' is where the application's
%% module lies, and the working directory of the workers. `Options' is the text of an Erlang map
%% and wins over the other arguments. Says so on standard output when requests can be answered;
%% a failure goes to standard error, and the node then exits with status 1.
-module(hornbeam_cli).

-export([main/0]).
-export([read_arguments/1]).

-type text() :: unicode:chardata().

%% API.

%% @doc Starts the server that the node's plain arguments ask for, and returns at once: a node
%% that is told to stop must not be held up in its boot.
-spec main() -> ok.
main() ->
    Arguments = init:get_plain_arguments(),
    _ = spawn(fun() -> watch(Arguments) end),
    ok.

%% @doc What the arguments mean as the application and options of `hornbeam:start/2'.
-spec read_arguments([string()]) -> {ok, string(), hornbeam_config:options()} | {error, text()}.
read_arguments([App, Folder, Bind, Workers, Python, OptionsText]) ->
    case read_options(OptionsText) of
        {ok, Options} ->
            Given = lists:append([
                [{chdir, filename:absname(Folder)} || Folder =/= ""],
                [{bind, Bind} || Bind =/= ""],
                [{workers, read_number(Workers)} || Workers =/= ""],
                %% An environment of the user's has an interpreter of its own.
                [{python, Python} || Python =/= "", not is_map_key(venv, Options)]
            ]),
            {ok, App, maps:merge(maps:from_list(Given), Options)};
        {error, Message} ->
            {error, ["the options are no Erlang map like #{lifespan => on}: ", Message]}
    end;
read_arguments(Arguments) ->
    {error, io_lib:format("six arguments are expected, not ~0tp", [Arguments])}.

%% Internal.

watch(Arguments) ->
    Watcher = self(),
    {Server, Monitor} =
        spawn_monitor(fun() -> Watcher ! {self(), serve(read_arguments(Arguments))} end),
    receive
        {Server, End} -> leave(End, init:get_status());
        {'DOWN', Monitor, process, Server, Crash} -> leave({crashed, Crash}, init:get_status())
    end.

%% The node is stopping, and the server with it: that is how it is meant to end.
leave(_, {stopping, _}) -> ok;
leave({failed, Message}, _) -> fail(["hornbeam: ", Message]);
leave({crashed, Reason}, _) -> fail(io_lib:format("hornbeam: failed with ~tp", [Reason])).

fail(Message) ->
    ok = io:put_chars(standard_error, [Message, $\n]),
    init:stop(1).

%% Returns when the server cannot be started, or has come down with all of its supervisors.
serve({ok, App, Options}) ->
    case hornbeam:start(App, Options) of
        ok ->
            ok = hornbeam_hangup:install(),
            serve_until_down(monitor(process, hornbeam_sup));
        {error, Reason} -> {failed, hornbeam:format_error(Reason)}
    end;
serve({error, Message}) ->
    {failed, Message}.

serve_until_down(Monitor) ->
    #{listeners := Listeners} = hornbeam:info(),
    Urls = [Url || #{url := Url} <- Listeners],
    ok = io:put_chars(["Hornbeam ready on ", lists:join(" and ", Urls), $\n]),
    receive
        {'DOWN', Monitor, process, _, Reason} -> {crashed, Reason}
    end.

%% What is no number stays text, for the check of the options to name it.
read_number(Text) ->
    case string:to_integer(Text) of
        {Number, ""} -> Number;
        _ -> Text
    end.

read_options("") ->
    {ok, #{}};
read_options(Text) ->
    case erl_scan:string(Text ++ ".") of
        {ok, Tokens, _} -> parse_options(erl_parse:parse_exprs(Tokens));
        {error, {_, Module, Description}, _} -> {error, Module:format_error(Description)}
    end.

parse_options({ok, Expressions}) ->
    %% The user's own expression, which may do anything, also fail.
    try erl_eval:exprs(Expressions, erl_eval:new_bindings()) of
        {value, Options, _} when is_map(Options) -> {ok, Options};
        {value, Other, _} -> {error, io_lib:format("~0tp", [Other])}
    catch
        Class:Reason -> {error, io_lib:format("~0tp: ~0tp", [Class, Reason])}
    end;
parse_options({error, {_, Module, Description}}) ->
    {error, Module:format_error(Description)}.
