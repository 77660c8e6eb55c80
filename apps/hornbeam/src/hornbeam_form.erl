%% SPDX-License-Identifier: Apache-2.0
%% @private Forms of values that several options share. Pure.
%%
%% Each function takes what the user wrote and gives it back in one form, or says what was
%% expected, as the end of a sentence that begins "expected".
-module(hornbeam_form).

-export([any_list/1]).
-export([any_text/1]).
-export([boolean/1]).
-export([each/3]).
-export([integer/3]).
-export([integer_or_infinity/2]).
-export([matching/3]).
-export([off_or/2]).
-export([one_of/2]).
-export([optional/2]).
-export([path/1]).
-export([text/1]).
-export([texts/1]).
-export([time/1]).
-export([time_or_infinity/1]).
-export([url_path/1]).

-type expected() :: unicode:chardata().
%% What would have been right.

-type result(Value) :: {ok, Value} | {error, expected()}.

-export_type([expected/0, result/1]).

%% The longest time that an Erlang timer can run: 2^32 - 1 ms, 49 days.
-define(MAX_TIME_MS, 16#FFFFFFFF).

%% API.

%% @doc Text as a binary: a string, or UTF-8 in a binary.
-spec text(term()) -> {ok, binary()} | error.
text(Value) when is_binary(Value) ->
    utf8(unicode:characters_to_binary(Value));
text(Value) when is_list(Value) ->
    case io_lib:char_list(Value) of
        true -> utf8(unicode:characters_to_binary(Value));
        false -> error
    end;
text(_) ->
    error.

%% @doc One text or a list of them, as a list.
-spec texts(term()) -> {ok, [binary()]} | error.
texts([]) ->
    {ok, []};
texts(Value) ->
    case text(Value) of
        {ok, Text} -> {ok, [Text]};
        error when is_list(Value) -> list_of_texts(Value, []);
        error -> error
    end.

%% @doc Text without NUL, which neither paths nor environments can carry.
-spec any_text(term()) -> result(binary()).
any_text(Value) ->
    case text(Value) of
        {ok, Text} -> without_nul(Text);
        error -> {error, "a string or binary"}
    end.

%% @doc Text that a regular expression accepts.
-spec matching(term(), iodata(), expected()) -> result(binary()).
matching(Value, Pattern, Expected) ->
    case any_text(Value) of
        {ok, Text} -> match(Text, Pattern, Expected);
        {error, _} -> {error, Expected}
    end.

-spec path(term()) -> result(binary()).
path(Value) ->
    matching(Value, "\\A.", "a path").

-spec url_path(term()) -> result(binary()).
url_path(Value) ->
    matching(Value, "\\A/[^?#]*\\z", "a path that begins with /").

-spec boolean(term()) -> result(boolean()).
boolean(Value) ->
    one_of(Value, [true, false]).

-spec one_of(term(), [atom(), ...]) -> result(atom()).
one_of(Value, Allowed) ->
    case lists:member(Value, Allowed) of
        true -> {ok, Value};
        false -> {error, alternatives(Allowed)}
    end.

-spec integer(term(), integer(), integer()) -> result(integer()).
integer(Value, Min, Max) when is_integer(Value), Value >= Min, Value =< Max ->
    {ok, Value};
integer(_, Min, Max) ->
    {error, io_lib:format("an integer from ~b to ~b", [Min, Max])}.

-spec integer_or_infinity(term(), integer()) -> result(integer() | infinity).
integer_or_infinity(infinity, _) ->
    {ok, infinity};
integer_or_infinity(Value, Min) when is_integer(Value), Value >= Min ->
    {ok, Value};
integer_or_infinity(_, Min) ->
    {error, io_lib:format("an integer not below ~b, or infinity", [Min])}.

-spec time(term()) -> result(pos_integer()).
time(Value) when is_integer(Value), Value >= 1, Value =< ?MAX_TIME_MS ->
    {ok, Value};
time(_) ->
    {error, io_lib:format("milliseconds from 1 to ~b", [?MAX_TIME_MS])}.

-spec time_or_infinity(term()) -> result(timeout()).
time_or_infinity(infinity) ->
    {ok, infinity};
time_or_infinity(Value) ->
    case time(Value) of
        {ok, _} = Ok -> Ok;
        {error, Expected} -> {error, [Expected, ", or infinity"]}
    end.

-spec any_list(term()) -> result(list()).
any_list(Value) ->
    case is_list(Value) andalso is_integer(proper_length(Value)) of
        true -> {ok, Value};
        false -> {error, "a list"}
    end.

%% @doc `undefined' stands for "not given".
-spec optional(term(), fun((term()) -> result(Value))) -> result(Value | undefined).
optional(undefined, _) -> {ok, undefined};
optional(Value, Check) -> Check(Value).

-spec off_or(term(), fun((term()) -> result(Value))) -> result(Value | off).
off_or(off, _) ->
    {ok, off};
off_or(Value, Check) ->
    case Check(Value) of
        {ok, _} = Ok -> Ok;
        {error, Expected} -> {error, ["off, or ", Expected]}
    end.

%% @doc A list, each element of which passes a check.
-spec each(term(), fun((term()) -> result(Value)), expected()) -> result([Value]).
each(Values, Check, Expected) ->
    each(Values, Check, Expected, []).

%% Internal.

each([], _, _, Done) ->
    {ok, lists:reverse(Done)};
each([Value | Values], Check, Expected, Done) ->
    case Check(Value) of
        {ok, Result} -> each(Values, Check, Expected, [Result | Done]);
        {error, _} -> {error, Expected}
    end;
each(_, _, Expected, _) ->
    {error, Expected}.

list_of_texts([], Texts) ->
    {ok, lists:reverse(Texts)};
list_of_texts([Value | Values], Texts) ->
    case text(Value) of
        {ok, Text} -> list_of_texts(Values, [Text | Texts]);
        error -> error
    end;
list_of_texts(_, _) ->
    error.

without_nul(Text) ->
    case binary:match(Text, <<0>>) of
        nomatch -> {ok, Text};
        _ -> {error, "text without NUL"}
    end.

match(Text, Pattern, Expected) ->
    case re:run(Text, Pattern, [unicode, ucp, dotall, {capture, none}]) of
        match -> {ok, Text};
        nomatch -> {error, Expected}
    end.

%% unicode:characters_to_binary/1 answers a tuple for what is not Unicode.
utf8(Text) when is_binary(Text) -> {ok, Text};
utf8(_) -> error.

alternatives([Only]) ->
    atom_to_list(Only);
alternatives(Allowed) ->
    {Most, [Last]} = lists:split(length(Allowed) - 1, Allowed),
    [lists:join(", ", [atom_to_list(A) || A <- Most]), " or ", atom_to_list(Last)].

%% The length of a proper list, `improper' for another.
proper_length(List) ->
    try
        length(List)
    catch
        error:badarg -> improper
    end.
