%% SPDX-License-Identifier: Apache-2.0

%% @private One invocation of a hook, between the process that wants it and the one that answers.
%%
%% The caller is a process of its own for each invocation: the runner of a task, or the relay of a
%% stream. It watches the target, and the target watches it; so the end of either is a message to
%% the other and there is no other way to cancel. Both may be on any node.
%%
%% <ul>
%% <li>caller to target: `{hornbeam_invoke, Caller, Ref, Invocation}'</li>
%% <li>target to caller: `{hornbeam_invoked, Ref, Producer}', then for a stream
%%   `{hornbeam_item, Ref, Blob}' as often as there is credit, and last
%%   `{hornbeam_result, Ref, {ok, Blob} | {error, Error}}'</li>
%% <li>caller to producer: `{hornbeam_credit, Ref, Count}'</li>
%% </ul>
-module(hornbeam_hook_call).

%% For callers
-export([run/1]).
-export([open/2]).
-export([give_credit/3]).

%% For targets
-export([tell_invoked/3]).
-export([tell_item/3]).
-export([tell_result/3]).
-export([tell_error/3]).

-export_type([invocation/0, kind/0, error/0]).

-type kind() :: call | stream.

-type invocation() :: {hornbeam_hook_registry:path(), Method :: binary() | undefined,
                       Args :: hornbeam_blob:blob(), Kwargs :: hornbeam_blob:blob(), kind()}.

-type error() ::
    hornbeam_hook_registry:not_found()
  | {service_down, #{path := hornbeam_hook_registry:path()}}
  | {bad_arguments, #{expected := binary()}}
  | hornbeam_blob:error()
  | hornbeam_task:error().

%%% For callers

%% @doc Invoke and wait for the result. The caller's task has the deadline.
-spec run(invocation()) -> {ok, hornbeam_blob:blob()} | {error, error()}.
run(Invocation) ->
    run(Invocation, []).

%% @doc Invoke one that is not known to be dead. The reference is a monitor of the target, and the
%% tag of all messages.
-spec open(invocation(), Dead :: [pid()]) ->
    {ok, Target :: pid(), reference()} | {error, hornbeam_hook_registry:not_found()}.
open(Invocation, Dead) ->
    case hornbeam_hook_registry:pick(element(1, Invocation), Dead) of
        {ok, Target} ->
            Ref = monitor(process, Target),
            _ = node(Target) =:= node() andalso hornbeam_hook_registry:count_up(Target),
            Target ! {hornbeam_invoke, self(), Ref, Invocation},
            {ok, Target, Ref};
        {error, _} = Error ->
            Error
    end.

-spec give_credit(Producer :: pid(), reference(), pos_integer()) -> ok.
give_credit(Producer, Ref, Count) ->
    Producer ! {hornbeam_credit, Ref, Count},
    ok.

%%% For targets

%% @doc Say which process takes the credit.
-spec tell_invoked(Caller :: pid(), reference(), Producer :: pid()) -> ok.
tell_invoked(Caller, Ref, Producer) ->
    Caller ! {hornbeam_invoked, Ref, Producer},
    ok.

-spec tell_item(Caller :: pid(), reference(), hornbeam_blob:blob()) -> ok.
tell_item(Caller, Ref, Blob) ->
    Caller ! {hornbeam_item, Ref, Blob},
    ok.

-spec tell_result(Caller :: pid(), reference(), {ok, hornbeam_blob:blob()} | {error, error()}) ->
    ok.
tell_result(Caller, Ref, Result) ->
    Caller ! {hornbeam_result, Ref, Result},
    ok.

-spec tell_error(Caller :: pid(), reference(), error()) -> ok.
tell_error(Caller, Ref, Error) ->
    tell_result(Caller, Ref, {error, Error}).

%%% Internal

run(Invocation, Dead) ->
    case open(Invocation, Dead) of
        {ok, Target, Ref} -> await(Invocation, Target, Ref, Dead);
        {error, _} = Error -> Error
    end.

await(Invocation, Target, Ref, Dead) ->
    receive
        {hornbeam_result, Ref, Result} ->
            Result;
        {'DOWN', Ref, process, Target, noproc} ->
            %% It was dead before it could see anything of this.
            run(Invocation, [Target | Dead]);
        {'DOWN', Ref, process, Target, _} ->
            {error, {service_down, #{path => element(1, Invocation)}}}
    end.
