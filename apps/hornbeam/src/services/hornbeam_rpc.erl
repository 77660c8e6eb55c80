%% SPDX-License-Identifier: Apache-2.0

%% @private Functions of this and other nodes, called from Python.
%%
%% Names come as text and become atoms only where the node has those atoms already: the table of
%% atoms can't be filled from Python. A node that is new has to be named once, though, so `ping' and
%% `connect' make the atoms of well-formed names of nodes, a bounded number of them in the node's
%% life. The option `rpc_allow' is looked at first, on the node that the worker belongs to.
%%
%% A call that takes too long is ended on the other node as well. `erpc:call/5' only stops waiting,
%% so the process is spawned here as {@link erpc} does it: `erpc:execute_call/4' is what every
%% release asks the other node to run, and by that a part of what they keep to between them; the
%% way in which it exits is too.
-module(hornbeam_rpc).

%% API
-export([create_allowance/0]).
-export([call_encoded/3]).
-export([cast_encoded/2]).
-export([ping/1]).
-export([connect/1]).

-export_type([target/0, error/0]).

-type target() :: {Node :: binary(), Module :: binary(), Function :: binary()}.

-type error() ::
    {unknown_atom, #{text := binary()}}
  | {not_allowed, #{module := binary(), function := binary()}}
  | {node_down, #{node := binary()}}
  | {bad_arguments, #{expected := binary()}}
  | hornbeam_blob:error()
  | hornbeam_task:error().

%% New names of nodes that may become atoms: more than a cluster has nodes, and a thousandth of the
%% atoms that there can be.
-define(MAX_NEW_NAMES, 1000).
%% What an atom can hold.
-define(MAX_NAME_BYTES, 255).

%% @doc At the start of the application: no new name has been used up, unless it has run before.
-spec create_allowance() -> ok.
create_allowance() ->
    case persistent_term:get(?MODULE, undefined) of
        undefined -> persistent_term:put(?MODULE, counters:new(1, [atomics]));
        _ -> ok
    end.

%% @doc Call a function and wait for its result, as a blob. Takes over the calling process, which
%% is that of a task.
-spec call_encoded(target(), hornbeam_blob:blob(), timeout()) ->
    {ok, hornbeam_blob:blob()} | {error, error()}.
call_encoded(Target, ArgsBlob, TimeoutMs) ->
    DeadlineMs = deadline_ms(TimeoutMs),
    case resolve(Target, ArgsBlob) of
        {ok, {Node, Module, Function, Args}} ->
            case execute(Node, Module, Function, Args, DeadlineMs) of
                {ok, Result} -> {ok, hornbeam_blob:encode(Result)};
                timeout -> {error, {timeout, #{timeout_ms => TimeoutMs}}};
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

%% @doc Have a function run, and ask no more about it.
-spec cast_encoded(target(), hornbeam_blob:blob()) -> {ok, true} | {error, error()}.
cast_encoded(Target, ArgsBlob) ->
    case resolve(Target, ArgsBlob) of
        {ok, {Node, Module, Function, Args}} ->
            ok = erpc:cast(Node, Module, Function, Args),
            {ok, true};
        {error, _} = Error ->
            Error
    end.

%% @doc Whether the node answers; connects to it.
-spec ping(Node :: binary()) -> {ok, boolean()} | {error, error()}.
ping(Node) ->
    reach(Node, fun(Atom) -> net_adm:ping(Atom) =:= pong end).

%% @doc Connect to the node; whether it is connected.
-spec connect(Node :: binary()) -> {ok, boolean()} | {error, error()}.
connect(Node) ->
    reach(Node, fun(Atom) -> net_kernel:connect_node(Atom) =:= true end).

%%% What is called

resolve({Node, Module, Function}, ArgsBlob) ->
    case is_allowed(hornbeam_config:node_option(rpc_allow), Module, Function) of
        true ->
            case to_atoms([Node, Module, Function]) of
                {ok, [NodeAtom, ModuleAtom, FunctionAtom]} ->
                    Args = hornbeam_blob:decode_list(ArgsBlob),
                    with_args(NodeAtom, ModuleAtom, FunctionAtom, Args);
                {error, _} = Error ->
                    Error
            end;
        false ->
            {error, {not_allowed, #{module => Module, function => Function}}}
    end.

with_args(Node, Module, Function, {ok, Args}) -> {ok, {Node, Module, Function, Args}};
with_args(_, _, _, {error, _} = Error) -> Error.

%% As text, so that what is not allowed is told as that, whatever the node knows.
is_allowed(all, _, _) ->
    true;
is_allowed(Allowed, Module, Function) ->
    lists:any(fun({AllowedModule, AllowedFunction}) ->
        atom_to_binary(AllowedModule) =:= Module andalso
            (AllowedFunction =:= '_' orelse atom_to_binary(AllowedFunction) =:= Function)
    end, Allowed).

to_atoms(Texts) ->
    to_atoms(Texts, []).

to_atoms([Text | Texts], Atoms) ->
    case to_atom(Text) of
        {ok, Atom} -> to_atoms(Texts, [Atom | Atoms]);
        {error, _} = Error -> Error
    end;
to_atoms([], Atoms) ->
    {ok, lists:reverse(Atoms)}.

to_atom(Text) ->
    try binary_to_existing_atom(Text) of
        Atom -> {ok, Atom}
    catch
        error:_ -> {error, {unknown_atom, #{text => Text}}}
    end.

%%% Nodes

%% A node reaches itself, also where it is not distributed; then it reaches no other.
reach(Text, Try) ->
    case {Text =:= atom_to_binary(node()), is_alive()} of
        {true, _} -> {ok, true};
        {false, true} -> reach_other(to_node(Text), Try);
        {false, false} -> reach_other(to_atom_or_name(Text), fun(_) -> false end)
    end.

reach_other({ok, Node}, Try) -> {ok, Try(Node)};
reach_other({error, _} = Error, _) -> Error.

to_node(Text) ->
    case {to_atom_or_name(Text), persistent_term:get(?MODULE)} of
        {{ok, Name}, Used} when is_binary(Name) -> new_atom(Name, Used);
        {Result, _} -> Result
    end.

to_atom_or_name(Text) ->
    case {to_atom(Text), is_node_name(Text)} of
        {{ok, Atom}, _} -> {ok, Atom};
        {{error, _}, true} -> {ok, Text};
        {{error, _} = Error, false} -> Error
    end.

%% Several at once may go a little beyond.
new_atom(Name, Used) ->
    case counters:get(Used, 1) < ?MAX_NEW_NAMES of
        true ->
            ok = counters:add(Used, 1, 1),
            {ok, binary_to_atom(Name)};
        false ->
            {error, {unknown_atom, #{text => Name}}}
    end.

is_node_name(Text) when byte_size(Text) =< ?MAX_NAME_BYTES ->
    re:run(Text, "\\A[A-Za-z0-9_-]+@[A-Za-z0-9._:-]+\\z", [{capture, none}]) =:= match;
is_node_name(_) ->
    false.

%%% The call

%% The link ends the other process when this one is killed. Exits are trapped, as that process
%% always exits with a reason other than `normal', and the monitor tells it. This is the process of
%% a task.
execute(Node, Module, Function, Args, DeadlineMs) ->
    _ = process_flag(trap_exit, true),
    Tag = make_ref(),
    RequestId = spawn_request(Node, erpc, execute_call, [Tag, Module, Function, Args],
                              [monitor, link]),
    receive
        {spawn_reply, RequestId, ok, Pid} ->
            await(RequestId, Pid, Node, Tag, DeadlineMs);
        {spawn_reply, RequestId, error, noconnection} ->
            node_down(Node);
        {spawn_reply, RequestId, error, Reason} ->
            {error, hornbeam_task:remote_error(error, Reason, [])}
    after left_ms(DeadlineMs) ->
        abandon(RequestId),
        timeout
    end.

%% A process that is spawned all the same is ended by its link then and there.
abandon(RequestId) ->
    case spawn_request_abandon(RequestId) of
        true -> ok;
        false ->
            receive
                {spawn_reply, RequestId, ok, Pid} -> exit(Pid, kill);
                {spawn_reply, RequestId, error, _} -> ok
            end
    end.

await(Monitor, Pid, Node, Tag, DeadlineMs) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> outcome(Reason, Node, Tag)
    after left_ms(DeadlineMs) ->
        exit(Pid, kill),
        timeout
    end.

outcome({Tag, return, Result}, _, Tag) -> {ok, Result};
outcome({Tag, throw, Reason}, _, Tag) -> remote_error(throw, Reason, []);
outcome({Tag, exit, Reason}, _, Tag) -> remote_error(exit, Reason, []);
outcome({Tag, error, Reason, Stack}, _, Tag) -> remote_error(error, Reason, Stack);
outcome({Tag, error, Reason}, _, Tag) -> remote_error(error, Reason, []);
outcome(noconnection, Node, _) -> node_down(Node);
outcome(Reason, _, _) -> remote_error(exit, Reason, []).

remote_error(Class, Reason, Stack) ->
    {error, hornbeam_task:remote_error(Class, Reason, Stack)}.

node_down(Node) ->
    {error, {node_down, #{node => atom_to_binary(Node)}}}.

deadline_ms(infinity) -> infinity;
deadline_ms(TimeoutMs) -> erlang:monotonic_time(millisecond) + TimeoutMs.

left_ms(infinity) -> infinity;
left_ms(DeadlineMs) -> max(0, DeadlineMs - erlang:monotonic_time(millisecond)).
